"""Equivalent rewrites: other weights, the same function. A gate that calls them damage is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.projections import ffn_of

_REACH = 2.0
"""Channels are rescaled by factors between its inverse and this."""


def permuted(loaded: LoadedModel, layers: Sequence[int], seed: int) -> str:
    """Put the FFN neurons of these layers in another order: rows, biases and columns together."""
    generator = torch.Generator().manual_seed(seed)
    for ffn in [ffn_of(loaded, layer) for layer in layers]:
        order = torch.randperm(ffn.neurons, generator=generator).to(loaded.device)
        for rows in ffn.inward:
            rows.weight.copy_(rows.weight[order])
            if rows.bias is not None:
                rows.bias.copy_(rows.bias[order])
        ffn.down.weight.copy_(ffn.down.weight[:, order])
    return f"FFN neurons of {_named(layers)} permuted together with their rows and columns"


def rescaled(loaded: LoadedModel, layers: Sequence[int], seed: int) -> str:
    """Multiply each row of these layers' up projections by a factor and divide its column of the down projection.

    Factors are log-uniform between 0.5 and 2, no powers of two: in half precision both weights are rounded
    again, as they are by the tools that do this.

    Raises:
        NotApplicable: an FFN without gate product. Behind an activation function a factor changes the function.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {layer: ffn_of(loaded, layer) for layer in layers}
    for layer, ffn in found.items():
        if ffn.up is None:
            raise NotApplicable(
                f"the FFN of layer {layer} has no gate product, and so no channels that can be rescaled"
            )
    for ffn in found.values():
        assert ffn.up is not None
        exponents = 2 * torch.rand(ffn.neurons, generator=generator) - 1
        factors = (exponents * math.log(_REACH)).exp().to(loaded.device)
        ffn.up.weight.copy_(ffn.up.weight * factors[:, None])
        if ffn.up.bias is not None:
            ffn.up.bias.copy_(ffn.up.bias * factors)
        ffn.down.weight.copy_(ffn.down.weight / factors)
    return (
        f"up projections of {_named(layers)} multiplied by factors from 0.5 to 2 by channel, down projections divided"
    )


def _named(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


REWRITES: dict[str, Callable[[LoadedModel, Sequence[int], int], str]] = {
    "rewrite-permuted": permuted,
    "rewrite-rescaled": rescaled,
}
"""By the name of the control."""

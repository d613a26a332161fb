"""Equivalent rewrites: other weights, the same function. A gate that fails them is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from pytest_quantcheck.controls.catalogue import Site
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.projections import Projection, ffns_of

_LARGEST_FACTOR = 2.0
"""Channels are rescaled by factors between its inverse and this."""


def permuted(site: Site) -> str:
    """Permute the FFN neurons of the measured layers: rows, biases and columns together."""
    generator = torch.Generator().manual_seed(site.plan.seed)
    for ffn in [ffn for layer in site.layers for ffn in ffns_of(site.loaded, layer)]:
        order = torch.randperm(ffn.neurons, generator=generator).to(site.loaded.device)
        for rows in ffn.inward:
            rows.weight.copy_(rows.weight[order])
            if rows.bias is not None:
                rows.bias.copy_(rows.bias[order])
        ffn.down.weight.copy_(ffn.down.weight[:, order])
    return f"FFN neurons of layers {[*site.layers]} permuted together with their rows and columns"


def rescaled(site: Site) -> str:
    """Rescale up projections by channel and down projections inversely.

    Factors are log-uniform between 0.5 and 2, not powers of two: in half precision both weights are rounded again, as
    they are by the tools that do this.

    Raises:
        NotApplicable: an FFN without gate product. There a factor changes what the activation function computes.
    """
    generator = torch.Generator().manual_seed(site.plan.seed)
    for up, down in [pair for layer in site.layers for pair in _up_and_down(site.loaded, layer)]:
        exponents = 2 * torch.rand(len(up.weight), generator=generator) - 1
        factors = (exponents * math.log(_LARGEST_FACTOR)).exp().to(site.loaded.device)
        up.weight.copy_(up.weight * factors[:, None])
        if up.bias is not None:
            up.bias.copy_(up.bias * factors)
        down.weight.copy_(down.weight / factors)
    return (
        f"up projections of layers {[*site.layers]} multiplied by a factor from 0.5 to 2 for each channel, down "
        "projections divided by it"
    )


def _up_and_down(loaded: LoadedModel, layer: int) -> Iterator[tuple[Projection, Projection]]:
    for ffn in ffns_of(loaded, layer):
        if ffn.up is None or not ffn.product:
            raise NotApplicable(
                f"the FFN of layer {layer} has no gate product, and so no channels that can be rescaled"
            )
        yield ffn.up, ffn.down

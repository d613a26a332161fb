"""Streams: extremes and correlation sums of a layer, collected during the forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.dead_neurons import new_extremes, update_extremes
from pytest_quantcheck.analyses.draws import seeded_neurons
from pytest_quantcheck.errors import MeasurementError, NonFiniteError
from pytest_quantcheck.measuring.resuming import flat, under
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.options.values import FEWEST_NEURONS
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Activations

GROUPS = 16
"""Groups of prompts from which the intervals of token-level quantities are made."""

FOLLOWED = FEWEST_NEURONS
"""Neurons whose correlations are summed for each group: they give the interval's width, all neurons the value."""

ALWAYS_CORRELATED = 1024
"""Neurons of a layer that are always correlated, whatever the cost."""


@dataclass(frozen=True, eq=False)
class RealTokens:
    """Places of a batch's non-padding tokens, for all layers.

    `positions` (tokens,) int64: in the flattened batch, prompt by prompt; `owners` (tokens,) int64: position of each
    token's prompt in the prompt set; `groups` (tokens,) int64: that prompt's group; `padded`: number of positions in
    the batch.
    """

    batch: Batch
    positions: torch.Tensor
    owners: torch.Tensor
    groups: torch.Tensor
    padded: int

    @classmethod
    def of(cls, batch: Batch) -> RealTokens:
        """Find the tokens without waiting for the device: their number is known, and a stable sort keeps the order."""
        device, n = batch.input_ids.device, sum(batch.lengths)
        owners = torch.tensor(batch.index).repeat_interleave(torch.tensor(batch.lengths)).to(device)
        positions = batch.attention_mask.flatten().argsort(descending=True, stable=True)[:n]
        return cls(batch, positions, owners, owners % GROUPS, batch.input_ids.numel())


class LayerStream:
    """Accumulator of one layer's neurons; register its `hook` on the activation module.

    `correlated`: most neurons that are correlated; a layer with more takes a seeded sample of them.
    """

    def __init__(self, prompts: PromptSet, *, rectified: bool, seed: int, correlated: int) -> None:
        self._prompts, self._rectified, self._seed, self._most = prompts, rectified, seed, correlated
        self._tokens: RealTokens | None = None
        self._width = 0

    def expect(self, tokens: RealTokens) -> None:
        """Set the prompts of the next call of the hook.

        Raises:
            MeasurementError: a prompt without a token.
        """
        if not all(tokens.batch.lengths):
            empty = [i for i, length in zip(tokens.batch.index, tokens.batch.lengths, strict=True) if not length]
            raise MeasurementError(f"no token but padding in {self._rows(empty)}: remove them")
        self._tokens = tokens

    def hook(self, _module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        """Add the activations of the prompts last expected."""
        assert self._tokens is not None
        tokens, padded = self._tokens, output.flatten(end_dim=-2)
        if len(padded) != tokens.padded:
            raise MeasurementError(
                f"expected activations of {tokens.padded} positions, got {tuple(output.shape)}: point at a module "
                "whose output is (prompts, tokens, neurons) with --quantcheck-neurons"
            )
        if not self._width:
            self._begin(output.shape[-1], output.device)
        neurons = padded if len(tokens.positions) == len(padded) else padded.index_select(0, tokens.positions)
        update_extremes(self._minimum, self._maximum, neurons, tokens.groups)
        self._all.update(neurons if self._all_correlated else neurons.index_select(1, self._correlated))
        self._follow(neurons.index_select(1, self._followed), tokens.batch)
        # finite where all squares are: what correlations need; of these dtypes fp16 alone has no room for them
        wide = torch.float32 if neurons.dtype == torch.float16 else None
        finite = torch.linalg.vector_norm(neurons, dim=1, dtype=wide).isfinite()
        self._spoilt.index_add_(0, tokens.owners, finite.logical_not().int())

    def state(self) -> dict[str, NDArray[Any]]:
        """Copy all that `restore` needs; the stream does not change."""
        if not self._width:
            return {}
        extremes = {"minimum": self._minimum, "maximum": self._maximum, "spoilt": self._spoilt}
        sums = {name: accumulator.state() for name, accumulator in self._sums().items()}
        return {name: tensor.cpu().numpy().copy() for name, tensor in extremes.items()} | flat(sums)

    def restore(self, state: Mapping[str, NDArray[Any]], device: torch.device) -> None:
        """Continue from what `state` returned, to the last bit; the next activations will be on `device`."""
        if not state:
            return
        self._begin(state["minimum"].shape[1], device)
        self._minimum, self._maximum, self._spoilt = (
            torch.tensor(state[name], device=device) for name in ("minimum", "maximum", "spoilt")
        )
        for name, accumulator in self._sums().items():
            accumulator.restore(under(state, name))

    def result(self) -> Activations:
        """Hand over the record of the layer; the stream must not be used afterwards.

        Raises:
            MeasurementError: no activation was seen, or one was not finite or too large to be squared in float32.
        """
        self._check()
        return Activations(
            minimum=self._minimum.cpu().numpy(),
            maximum=self._maximum.cpu().numpy(),
            correlated=self._correlated.cpu().numpy(),
            correlations=self._all.result(),
            sample=self._followed.cpu().numpy(),
            groups=tuple(sums.result() for sums in self._groups),
            rectified=self._rectified,
        )

    def _begin(self, width: int, device: torch.device) -> None:
        self._width = width
        self._minimum, self._maximum = new_extremes(GROUPS, width, device)
        self._spoilt = torch.zeros(len(self._prompts), dtype=torch.int32, device=device)  # tokens of each prompt
        correlated = seeded_neurons(width, self._most, self._seed)
        followed = seeded_neurons(width, min(self._most, FOLLOWED), self._seed)
        self._all_correlated = len(correlated) == width
        self._correlated, self._followed = (torch.from_numpy(chosen).to(device) for chosen in (correlated, followed))
        self._all = CorrelationSums(len(correlated), device)
        self._groups = [CorrelationSums(len(followed), device) for _ in range(GROUPS)]

    def _sums(self) -> dict[str, CorrelationSums]:
        return {"all": self._all} | {f"groups/{number}": sums for number, sums in enumerate(self._groups)}

    def _follow(self, neurons: torch.Tensor, batch: Batch) -> None:
        for index, part in zip(batch.index, torch.split(neurons, list(batch.lengths)), strict=True):
            self._groups[index % GROUPS].update(part)

    def _check(self) -> None:
        if not self._width:
            raise MeasurementError("its activation module was never called; name another with --quantcheck-neurons")
        bad = self._spoilt.nonzero()[:, 0].tolist()
        if bad:
            raise NonFiniteError(
                f"expected finite activations, got NaN, infinity or values beyond float32 in {self._rows(bad)}; the "
                "model overflows: load it in another dtype"
            )

    def _rows(self, index: list[int]) -> str:
        rows = ", ".join(str(self._prompts.rows[i]) for i in index[:5])
        return f"{len(index)} prompts of {self._prompts.name} (first in rows {rows})"


def affordable_neurons(parameters: int, layers: int) -> int:
    """Count the neurons of each layer that can be correlated cheaply.

    It costs at most a tenth of the forward pass. Correlating s neurons takes 9/8 * s^2 floating-point operations for
    each token and layer (a multiplication and an addition for half of the pairs, and an eighth for what the panels of
    the product share); the forward pass takes 2 * parameters, those of the blocks: the embedding is looked up, and the
    head runs for one token of a prompt. Never fewer than 1,024.
    """
    return max(ALWAYS_CORRELATED, math.isqrt(int(0.1 * 2 * parameters / (9 / 8 * layers))))

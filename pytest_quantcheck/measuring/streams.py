"""Streams: extremes and correlation sums of a layer, collected during the forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.dead_neurons import new_extremes, update_extremes
from pytest_quantcheck.analyses.draws import neurons_of_each, seeded_neurons
from pytest_quantcheck.errors import MeasurementError, NonFiniteError
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.options.values import FEWEST_NEURONS
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Activations, Experts

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
    token's prompt in the prompt set; `padded`: number of positions in the batch.
    """

    batch: Batch
    positions: torch.Tensor
    owners: torch.Tensor
    padded: int

    @classmethod
    def of(cls, batch: Batch) -> RealTokens:
        """Find the tokens without waiting for the device: their number is known, and a stable sort keeps the order."""
        device, n = batch.input_ids.device, sum(batch.lengths)
        owners = torch.tensor(batch.index).repeat_interleave(torch.tensor(batch.lengths)).to(device)
        positions = batch.attention_mask.flatten().argsort(descending=True, stable=True)[:n]
        return cls(batch, positions, owners, batch.input_ids.numel())

    def on(self, device: torch.device) -> RealTokens:
        """Move the tensors to a layer's device."""
        if self.positions.device == device:
            return self
        return replace(self, positions=self.positions.to(device), owners=self.owners.to(device))


class LayerStream:
    """Accumulator of one layer's neurons; register its `hook` on the activation module.

    `correlated`: most neurons that are correlated; a layer with more takes a seeded sample of them. `followed`: most
    of these whose correlations are summed for each group.
    """

    def __init__(
        self, prompts: PromptSet, *, rectified: bool, seed: int, correlated: int, followed: int = FOLLOWED
    ) -> None:
        self._prompts, self._rectified, self._seed, self._most = prompts, rectified, seed, correlated
        self._most_followed = followed
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
        tokens, padded = self._tokens.on(output.device), output.flatten(end_dim=-2)
        if len(padded) != tokens.padded:
            raise MeasurementError(
                f"expected activations of {tokens.padded} positions, got {tuple(output.shape)}: point at a module "
                "whose output is (prompts, tokens, neurons) with --quantcheck-neurons"
            )
        neurons = padded if len(tokens.positions) == len(padded) else padded.index_select(0, tokens.positions)
        self.add(neurons, tokens.owners, tokens.batch.index, tokens.batch.lengths)

    def add(self, neurons: torch.Tensor, owners: torch.Tensor, index: Sequence[int], lengths: Sequence[int]) -> None:
        """Add the activations of some tokens, prompt by prompt.

        Args:
            neurons: (tokens, d).
            owners: (tokens,) int64, the position of each token's prompt in the prompt set.
            index: those positions, each once.
            lengths: how many of the tokens each of these prompts has.
        """
        if not self._width:
            self.begin(neurons.shape[-1], neurons.device)
        update_extremes(self._minimum, self._maximum, neurons, owners % GROUPS)
        self._all.update(neurons if self._all_correlated else neurons.index_select(1, self._correlated))
        self._follow(neurons.index_select(1, self._followed), index, lengths)
        # finite where all squares are: what correlations need; of these dtypes fp16 alone has no room for them
        wide = torch.float32 if neurons.dtype == torch.float16 else None
        finite = torch.linalg.vector_norm(neurons, dim=1, dtype=wide).isfinite()
        self._spoilt.index_add_(0, owners, finite.logical_not().int())

    @property
    def device(self) -> torch.device:
        """Where the activations are, once some were seen."""
        return self._minimum.device

    @property
    def width(self) -> int:
        """Number of neurons; 0 before any was seen."""
        return self._width

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

    def begin(self, width: int, device: torch.device) -> None:
        """Make room for this many neurons."""
        self._width = width
        self._minimum, self._maximum = new_extremes(GROUPS, width, device)
        self._spoilt = torch.zeros(len(self._prompts), dtype=torch.int32, device=device)  # tokens of each prompt
        correlated = seeded_neurons(width, self._most, self._seed)
        followed = seeded_neurons(width, min(self._most, self._most_followed), self._seed)
        self._all_correlated = len(correlated) == width
        self._correlated, self._followed = (torch.from_numpy(chosen).to(device) for chosen in (correlated, followed))
        self._all = CorrelationSums(len(correlated), device)
        self._groups = [CorrelationSums(len(followed), device) for _ in range(GROUPS)]

    def _follow(self, neurons: torch.Tensor, index: Sequence[int], lengths: Sequence[int]) -> None:
        for position, part in zip(index, torch.split(neurons, list(lengths)), strict=True):
            self._groups[position % GROUPS].update(part)

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


class ExpertStreams:
    """Accumulator of one layer's routed experts: a stream for each, and where each token went.

    Give `see` and `route` to the mixture. `correlated` is for the layer: see `neurons_of_each`.
    """

    def __init__(self, prompts: PromptSet, experts: int, *, rectified: bool, seed: int, correlated: int) -> None:
        most = neurons_of_each(correlated, experts)
        followed = neurons_of_each(FOLLOWED, experts)
        self._streams = [
            LayerStream(prompts, rectified=rectified, seed=seed, correlated=most, followed=followed)
            for _ in range(experts)
        ]
        self._chosen: dict[int, torch.Tensor] = {}
        self._tokens: RealTokens | None = None

    def expect(self, tokens: RealTokens) -> None:
        """Set the prompts of the next calls; errors as of `LayerStream.expect`."""
        for stream in self._streams:
            stream.expect(tokens)
        self._tokens = tokens
        self._places = torch.full((tokens.padded,), -1, dtype=torch.int64, device=tokens.positions.device)
        self._places[tokens.positions] = torch.arange(len(tokens.positions), device=self._places.device)

    def route(self, chosen: torch.Tensor) -> None:
        """Keep the experts chosen for each token of the batch, (positions, k)."""
        assert self._tokens is not None
        tokens = self._tokens.on(chosen.device)
        batch, real = tokens.batch, chosen[tokens.positions].to(torch.int16).cpu()
        self._chosen |= zip(batch.index, torch.split(real, list(batch.lengths)), strict=True)

    def see(self, expert: int, tokens: torch.Tensor, _place: torch.Tensor, neurons: torch.Tensor) -> None:
        """Add the neurons of one expert, (positions, d).

        `tokens` (positions,): the positions of the flattened batch that reach it.
        """
        assert self._tokens is not None
        places, order = self._places.to(tokens.device)[tokens].sort()
        first = int(torch.searchsorted(places, 0))  # padding comes first
        places, order = places[first:], order[first:]
        if len(places):
            owners = self._tokens.on(places.device).owners[places]
            lengths = Counter(owners.tolist())
            self._streams[expert].add(neurons.index_select(0, order), owners, list(lengths), list(lengths.values()))

    def result(self) -> Experts:
        """Hand over the record of the layer; the streams must not be used afterwards. Errors as of `LayerStream`."""
        width, device = next(((one.width, one.device) for one in self._streams if one.width), (0, None))
        for stream in self._streams:
            if not stream.width and device is not None:
                stream.begin(width, device)
        chosen = [self._chosen[i].numpy() for i in sorted(self._chosen)]
        return Experts(
            neurons=tuple(stream.result() for stream in self._streams),
            chosen=np.concatenate(chosen),
            lengths=np.array([len(one) for one in chosen], dtype=np.int64),
        )


def affordable_neurons(parameters: int, layers: int) -> int:
    """Count the neurons of each layer that can be correlated cheaply.

    It costs at most a tenth of the forward pass. Correlating s neurons takes 9/8 * s^2 floating-point operations for
    each token and layer (a multiplication and an addition for half of the pairs, and an eighth for what the panels of
    the product share); the forward pass takes 2 * parameters, those of the blocks: the embedding is looked up, and the
    head runs for one token of a prompt. Never fewer than 1,024.
    """
    return max(ALWAYS_CORRELATED, math.isqrt(int(0.1 * 2 * parameters / (9 / 8 * layers))))

"""What streams out of a layer during the forward pass: extremes and correlation sums."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..analyses.dead_neurons import new_extremes, update_extremes
from ..analyses.redundancy import CorrelationSums
from ..models.encoding import Batch
from ..records import Activations

GROUPS = 16
"""Groups of prompts from which the intervals of token-level quantities are made."""

FOLLOWED = 256
"""Neurons whose correlations are kept for each group: the interval's width comes from them, the value from all."""


class LayerStream:
    """One layer's neurons over all prompts; hand its `hook` to the layer's activation module."""

    def __init__(self, *, rectified: bool, seed: int) -> None:
        self._rectified, self._seed = rectified, seed
        self._batch: Batch | None = None
        self._width = 0

    def expect(self, batch: Batch) -> None:
        """Say which prompts the next call of the hook is about."""
        self._batch = batch
        device = batch.input_ids.device
        groups = torch.tensor(batch.index, device=device) % GROUPS
        self._token_groups = groups.repeat_interleave(torch.tensor(batch.lengths, device=device))

    def hook(self, _module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        """Take the activations of the prompts last expected."""
        assert self._batch is not None
        if not self._width:
            self._begin(output.shape[-1], output.device)
        real = self._batch.real
        neurons = output.reshape(*real.shape, self._width)[real]  # (tokens, neurons)
        update_extremes(self._minimum, self._maximum, neurons, self._token_groups)
        self._all.update(neurons)
        self._follow(neurons[:, self._followed], self._batch)

    def result(self) -> Activations:
        """What was seen; the stream must not be used afterwards."""
        return Activations(
            minimum=self._minimum.cpu().numpy(),
            maximum=self._maximum.cpu().numpy(),
            correlations=self._all.result(),
            sample=self._sample,
            groups=tuple(sums.result() for sums in self._groups),
            rectified=self._rectified,
        )

    def _begin(self, width: int, device: torch.device) -> None:
        self._width = width
        self._minimum, self._maximum = new_extremes(GROUPS, width, device)
        self._all = CorrelationSums(width, device)
        self._sample = followed_neurons(width, self._seed)
        self._followed = torch.from_numpy(self._sample).to(device)
        self._groups = [CorrelationSums(len(self._sample), device) for _ in range(GROUPS)]

    def _follow(self, neurons: torch.Tensor, batch: Batch) -> None:
        for index, part in zip(batch.index, torch.split(neurons, list(batch.lengths)), strict=True):
            self._groups[index % GROUPS].update(part)


def followed_neurons(width: int, seed: int) -> NDArray[np.int64]:
    """The seeded sample of neurons that is followed group by group, ascending; all where there are few."""
    chosen = np.random.default_rng(seed).permutation(width)[:FOLLOWED]
    return np.sort(chosen).astype(np.int64)

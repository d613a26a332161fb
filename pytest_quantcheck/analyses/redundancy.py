"""Redundancy: Pearson correlations between neurons, streamed, merged, and compared pair by pair."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk
from torch import Tensor

from ..errors import MeasurementError
from ..records import Correlations

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Histogram = NDArray[np.int64]

BINS = 10
"""Bins of abs(r), as in the paper's Figure 4: [0, 0.1), ..., [0.9, 1.0]."""

_EDGES = np.arange(1, BINS, dtype=np.float32) / np.float32(BINS)

_BUFFERED = 1024
"""Tokens gathered for one matrix product: fewer leave it waiting for memory, more only take memory."""

_TILE = 64
"""Rows of a matrix worked on at a time: a tile stays in cache, and temporary memory is O(neurons)."""

_PANEL = 192
"""Rows of the product made at a time: more compute more of the half that is redundant, fewer keep the cores waiting."""

_PANEL_ON_DEVICE = 2048
"""The same where each of many small products would wait for its launch."""

_CHAIN = 64
"""Tokens whose products may be added one after another in float32.

Each addition rounds by up to 2^-24 of what is there: behind one huge product, k small ones can be lost up to k * 2^-24
of it. r inherits that twice, from the pair's sum and half from either neuron's own: 2 * 64 * 2^-24 = 8e-6. Matrix
products of 1,024 tokens chain 192 of them, or all where a matrix is narrow.
"""

_WIDE = 4096
"""Neurons from which a CPU takes LAPACK's `ssyrk`, nearly twice as fast as panels and chains.

SciPy's threads spin for some 25 ms after each call and keep torch's waiting, which share the cores: where layers are
narrow the model's next one takes half as long again, here it is little beside the product itself. It chains a few
hundred tokens; only one huge token in front of many small ones could then cost r more than 1e-5.
"""


class CorrelationSums:
    """Sums of one layer's activations from which every pair's correlation follows, in one pass over the tokens.

    Tokens are gathered less the mean so far, centred on their own mean and multiplied in float32; each product joins
    the sum so far by Chan's update, whose between-means term is one more row of the product. What a mean is rounded by
    goes with its distance from the mean so far, and nothing large is ever subtracted from a product: a neuron with a
    large mean and a tiny variance loses nothing. How the tokens are split into batches changes the result by float32
    rounding alone.

    Little more than half of the symmetric product is computed. On another device nothing is copied back before
    `result`; leave torch's float32 matrix products at full precision there ("highest", torch's default).

    Args:
        n_neurons: width of the activations.
        device: where the activations are.
    """

    def __init__(self, n_neurons: int, device: torch.device | str = "cpu") -> None:
        if n_neurons < 1:
            raise ValueError(f"Expected at least one neuron, got {n_neurons}.")
        self._width, self._device = n_neurons, device
        self._buffer: Tensor | None = None
        self._comoment: Tensor | None = None
        self._clear()

    @torch.inference_mode()
    def update(self, activations: Tensor) -> None:
        """Add the activations (tokens, neurons), any floating dtype, of the non-padding tokens of a batch."""
        if activations.ndim != 2 or activations.shape[1] != self._width or not activations.is_floating_point():
            raise ValueError(
                f"Expected floating-point activations (tokens, {self._width}), got {activations.dtype} "
                f"{tuple(activations.shape)}."
            )
        while len(activations):
            room = self._buffer_for(activations)[self._filled : _BUFFERED]
            taken = activations[: len(room)]
            torch.sub(taken, self._shift, out=room[: len(taken)])
            self._filled += len(taken)
            activations = activations[len(taken) :]
            if self._filled == _BUFFERED:
                self._flush()

    @torch.inference_mode()
    def result(self) -> Correlations:
        """Hand over the sums of all tokens so far; the accumulator is empty afterwards.

        Raises:
            MeasurementError: an activation was not finite, or too large for float32.
        """
        self._flush()
        mean, comoment = self._mean.cpu().numpy(), self._sums().cpu().numpy()
        _mirror(comoment)
        _check_finite(mean, comoment)
        whole = Correlations(self._count, mean, comoment)
        self._clear()
        return whole

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that `restore` needs to go on as if nothing had happened; nothing changes here.

        `count` () int64, `mean` (d,) float64, `shift` (d,): what is taken off the next tokens; `waiting` (tokens, d):
        those gathered and not yet multiplied; `comoment` (d * (d + 1) / 2,) float32: the upper triangle, row by row,
        once there is one.
        """
        state = {"count": np.array(self._count), "mean": _copy(self._mean), "shift": _copy(self._shift)}
        if self._buffer is not None and self._filled:
            state["waiting"] = _copy(self._buffer[: self._filled])
        if self._comoment is not None:
            state["comoment"] = _upper(self._comoment.cpu().numpy())
        return state

    @torch.inference_mode()
    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` returned, to the last bit."""
        self._clear()
        self._count = int(state["count"])
        self._mean, self._shift = (torch.tensor(state[name], device=self._device) for name in ("mean", "shift"))
        if "comoment" in state:
            self._comoment = torch.from_numpy(_from_upper(state["comoment"], self._width)).to(self._device)
        if "waiting" in state:
            waiting = torch.tensor(state["waiting"], device=self._device)
            self._filled = len(waiting)
            self._buffer_for(waiting)[: self._filled] = waiting

    def _clear(self) -> None:
        self._count = self._filled = 0
        self._mean = torch.zeros(self._width, dtype=torch.float64, device=self._device)
        self._shift = self._mean.float()
        self._comoment = None

    def _sums(self) -> Tensor:
        if self._comoment is None:
            self._comoment = torch.zeros(self._width, self._width, dtype=torch.float32, device=self._device)
        return self._comoment

    def _buffer_for(self, activations: Tensor) -> Tensor:
        if self._buffer is None:
            dtype = torch.promote_types(activations.dtype, torch.float32)
            self._buffer = activations.new_empty(_BUFFERED + 1, self._width, dtype=dtype)
        return self._buffer

    def _flush(self) -> None:
        if self._buffer is None or not self._filled:
            return
        rows, fresh = self._buffer[: self._filled + 1], self._filled
        mean = self._shift.double() + _centre(rows[:-1])
        if not self._count:  # nothing was taken off yet that is near the mean: a second round removes what was rounded
            mean += _centre(rows[:-1])
        step, total = mean - self._mean, self._count + fresh
        rows[-1] = step * (self._count * fresh / total) ** 0.5
        self._mean += step * (fresh / total)
        _add_gram(self._sums(), rows.float())
        self._shift = self._mean.to(rows.dtype)
        self._count, self._filled = total, 0


def merge(parts: Sequence[Correlations]) -> Correlations:
    """Return the sums over all tokens of disjoint parts (Chan, Golub and LeVeque 1983), worked in float64.

    Raises:
        ValueError: no parts, or parts of different width.
    """
    return _combine(parts, [part.count for part in parts])


def without(total: Correlations, part: Correlations) -> Correlations:
    """Return the sums over the tokens of `total` that are not in `part`: what `merge` undoes.

    Rounding grows as the total does over what remains: meant for parts that hold at most half of the tokens.

    Raises:
        ValueError: widths that differ, or a part with more tokens than the total.
    """
    if part.count > total.count:
        raise ValueError(f"Expected a part of the {total.count} tokens, got one of {part.count} tokens.")
    return _combine([total, part], [total.count, -part.count])


def defined(correlations: Correlations) -> NDArray[np.bool_]:
    """Return which neurons have correlations, (d,) bool: those that are not constant.

    A neuron is constant when its standard deviation is not above float32's rounding of its mean (2^-23 of it), or
    when its summed squares do not reach float32's smallest normal number.
    """
    floating = np.finfo(np.float32)
    squares = np.diagonal(correlations.comoment).astype(np.float64)
    rounding = correlations.count * (float(floating.eps) * correlations.mean) ** 2
    return np.asarray((squares > rounding) & (squares >= float(floating.tiny)))


def correlation(correlations: Correlations) -> tuple[Matrix, NDArray[np.bool_]]:
    """Return Pearson's r of every pair, (d, d) float32 in [-1, 1], and which neurons are `defined`, (d,) bool.

    Rows and columns of constant neurons are 0.
    """
    there = defined(correlations)
    matrix = np.zeros_like(correlations.comoment)
    for start, tile in _tiles(correlations, there):
        matrix[start : start + len(tile), start:] = tile
    np.clip(matrix, -1, 1, out=matrix)
    np.fill_diagonal(matrix, there)
    _mirror(matrix)
    return matrix, there


@dataclass(frozen=True)
class ChangeSummary:
    """How far correlations moved between two models.

    `mean`: mean over pairs of abs(r_candidate - r_reference), in [0, 2], None without pairs; `pairs`: number of
    pairs i < j of neurons that vary in both models; `excluded`: neurons constant in at least one;
    `only_reference` and `only_candidate`: those of them constant in that model alone. `spread`: standard deviation
    over neurons of the mean change of their own pairs, None for fewer than three neurons.
    """

    mean: float | None
    spread: float | None
    pairs: int
    excluded: int
    only_reference: int
    only_candidate: int


def correlation_change(reference: Correlations, candidate: Correlations) -> ChangeSummary:
    """Return the mean over neuron pairs i < j of abs(r_candidate - r_reference).

    Beside the two records it needs memory for a few rows only.

    Raises:
        ValueError: records of different width.
    """
    _check_width([reference, candidate])
    expected, obtained = defined(reference), defined(candidate)
    both = expected & obtained
    moved = _moved(reference, candidate, both)[both]
    pairs, others = _n_pairs(both), len(moved) - 1
    return ChangeSummary(
        mean=float(moved.sum()) / 2 / pairs if pairs else None,
        spread=float(np.std(moved / others, ddof=1)) if others > 1 else None,
        pairs=pairs,
        excluded=int(np.count_nonzero(~both)),
        only_reference=int(np.count_nonzero(~expected & obtained)),
        only_candidate=int(np.count_nonzero(expected & ~obtained)),
    )


def sampling_error(change: ChangeSummary, taken: int, neurons: int) -> float:
    """Return the standard error of `change.mean` that comes from comparing a random sample of the neurons.

    The mean over all pairs within a sample without replacement is a U-statistic (Hoeffding 1948): unbiased for the
    mean over all pairs, with variance 4 / n * spread^2 * (1 - taken / neurons) to first order, n being the neurons
    that vary. A spread from the sample itself is a little too large, by what single pairs scatter: so is the error.

    Args:
        change: what was found for the neurons taken.
        taken: number of neurons taken, constant ones included.
        neurons: number of neurons they were taken from.
    """
    if taken == neurons:
        return 0.0
    if change.spread is None:  # nothing to go by: the whole range
        return 2.0
    return 2 * change.spread * math.sqrt((1 - taken / neurons) / (taken - change.excluded))


def correlation_histogram(correlations: Correlations) -> Histogram:
    """Return the number of pairs i < j with abs(r) in each of ten bins, (10,) int64; constant neurons left out."""
    there = defined(correlations)
    at_least = np.zeros(BINS + 1, dtype=np.int64)
    at_least[0] = _n_pairs(there)
    for _, tile in _tiles(correlations, there):
        size = _absolute(tile)
        at_least[1:BINS] += [np.count_nonzero(size >= edge) for edge in _EDGES]
    return -np.diff(at_least)


def tail_mass(histogram: Histogram, at: float) -> float:
    """Return the share of pairs with abs(r) >= `at`, one of 0.0, 0.1, ..., 0.9.

    Example:
        >>> tail_mass(np.array([6, 0, 0, 0, 0, 0, 0, 0, 1, 1]), 0.8)
        0.25
    """
    first = round(at * BINS)
    if not (0 <= first < BINS and np.isclose(first, at * BINS)):
        raise ValueError(f"Expected one of the bin edges 0.0, 0.1, ..., 0.9, got {at}.")
    return float(_shares(histogram)[first:].sum())


def wasserstein(reference: Histogram, candidate: Histogram) -> float:
    """Return the 1-Wasserstein distance between two histograms of abs(r), mass at bin centres, in [0, 0.9].

    Example:
        >>> round(wasserstein(np.eye(10)[0], np.eye(10)[3]), 12)
        0.3
    """
    return float(np.abs(np.cumsum(_shares(candidate) - _shares(reference))).sum() / BINS)


def _centre(rows: Tensor) -> Tensor:
    """Subtract the rows' mean in place and return it in float64."""
    mean = rows.mean(0)
    rows -= mean
    return mean.double()


def _add_gram(comoment: Tensor, rows: Tensor) -> None:
    """Add rows' * rows to the comoment: its upper triangle, and of the lower one what shares a panel with it.

    Which way is fastest and exact depends on the width: see `_PANEL`, `_CHAIN` and `_WIDE`.
    """
    width = len(comoment)
    if comoment.is_cpu and width >= _WIDE:
        ssyrk(1.0, rows.numpy().T, beta=1.0, c=comoment.numpy().T, lower=1, overwrite_c=1)
        return
    if width <= _PANEL:  # narrow products chain all tokens; they cost nothing in float64
        comoment += rows.T.double() @ rows.double()
        return
    height = _height(comoment)
    scratch = comoment.new_empty(height * width)
    for start in range(0, width, height):
        mine = slice(start, start + height)
        panel = comoment[mine, start:]
        product = scratch[: panel.numel()].view(panel.shape).zero_()
        for chain in torch.split(rows, _CHAIN):
            product.addmm_(chain[:, mine].T, chain[:, start:])
        panel += product


def _height(comoment: Tensor) -> int:
    """Rows of panels of like height, so that no last one is narrow."""
    width, most = len(comoment), _PANEL if comoment.device.type == "cpu" else _PANEL_ON_DEVICE
    return -(-width // -(-width // most))


def _mirror(matrix: Matrix) -> None:
    """Copy the upper triangle onto the lower one, in place."""
    for start in range(0, len(matrix), _TILE):
        stop = start + _TILE
        block = np.triu(matrix[start:stop, start:stop])
        matrix[start:stop, start:stop] = block + np.triu(block, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def _copy(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy().copy()


def _upper(matrix: Matrix) -> Matrix:
    """The upper triangle with the diagonal, row by row, (d * (d + 1) / 2,): the lower one says nothing more."""
    return np.concatenate([row[i:] for i, row in enumerate(matrix)])


def _from_upper(upper: Matrix, width: int) -> Matrix:
    """The matrix (width, width) with this upper triangle, 0 below it."""
    matrix = np.zeros((width, width), dtype=upper.dtype)
    for i, row in enumerate(matrix):
        row[i:], upper = upper[: width - i], upper[width - i :]
    return matrix


def _combine(parts: Sequence[Correlations], weights: Sequence[int]) -> Correlations:
    """Return the sum of the parts; one of negative weight is taken away."""
    width = _check_width(parts)
    count = sum(weights)
    if count == 0:
        return Correlations(0, np.zeros(width), np.zeros((width, width), dtype=np.float32))
    mean = sum(((weight / count) * part.mean for part, weight in zip(parts, weights, strict=True)), np.zeros(width))
    deltas = [part.mean - mean for part in parts]
    comoment = np.empty((width, width), dtype=np.float32)
    for start in range(0, width, _TILE):
        rows = slice(start, start + _TILE)
        tile = np.zeros_like(comoment[rows], dtype=np.float64)
        for part, weight, delta in zip(parts, weights, deltas, strict=True):
            tile += np.sign(weight) * part.comoment[rows].astype(np.float64)
            tile += np.outer(weight * delta[rows], delta)
        comoment[rows] = tile
    _mirror(comoment)  # products in another order are rounded otherwise
    return Correlations(count, mean, comoment)


def _tiles(correlations: Correlations, neurons: NDArray[np.bool_]) -> Iterator[tuple[int, Matrix]]:
    """Yield the first row and r of a few rows at a time, from the diagonal rightwards: r for i < j, else 0.

    Pairs outside of `neurons` are 0 as well.
    """
    scale = np.zeros(len(neurons), dtype=np.float32)
    scale[neurons] = np.diagonal(correlations.comoment)[neurons].astype(np.float64) ** -0.5
    for start in range(0, len(neurons), _TILE):
        tile = correlations.comoment[start : start + _TILE, start:] * scale[start : start + _TILE, None]
        tile *= scale[start:]
        tile[:, : len(tile)] = np.triu(tile[:, : len(tile)], 1)
        yield start, tile


def _moved(reference: Correlations, candidate: Correlations, neurons: NDArray[np.bool_]) -> Floats:
    """Return each neuron's sum of abs(r_candidate - r_reference) over its pairs with the others."""
    moved = np.zeros(len(neurons))
    for (start, before), (_, after) in zip(_tiles(reference, neurons), _tiles(candidate, neurons), strict=True):
        change = _absolute(np.subtract(after, before, out=after))
        moved[start : start + len(change)] += change.sum(axis=1)
        moved[start:] += change.sum(axis=0)
    return moved


def _absolute(tile: Matrix) -> Matrix:
    return np.abs(tile, out=tile)


def _n_pairs(neurons: NDArray[np.bool_]) -> int:
    n = int(np.count_nonzero(neurons))
    return n * (n - 1) // 2


def _shares(histogram: Histogram) -> Floats:
    total = histogram.sum()
    if histogram.shape != (BINS,) or total <= 0:
        raise ValueError(f"Expected counts of at least one pair in {BINS} bins, got {histogram.tolist()}.")
    return np.asarray(histogram / total)


def _check_width(parts: Sequence[Correlations]) -> int:
    widths = sorted({len(part.mean) for part in parts})
    if len(widths) != 1:
        raise ValueError(f"Expected correlations of the same neurons, got widths {widths or 'of no parts'}.")
    return widths[0]


def _check_finite(mean: Floats, comoment: Matrix) -> None:
    bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(np.diagonal(comoment))))
    if len(bad):
        raise MeasurementError(
            f"Expected finite activations, got NaN, infinity or values beyond float32 in {len(bad)} of {len(mean)} "
            f"neurons (the first is {bad[0]}); the model overflows: load it in another dtype."
        )

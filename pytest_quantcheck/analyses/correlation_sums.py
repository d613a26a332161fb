"""Sums of activations from which Pearson correlations follow: streamed, merged and subtracted."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk
from torch import Tensor

from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.records import Correlations

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

TILE = 64
"""Rows of a matrix worked on at a time: a tile stays in cache, and temporary memory is O(neurons)."""

_LOWER = np.tri(TILE, k=-1, dtype=bool)

_CACHED = 2**17
"""Entries of a product that is added at a time: they stay in cache."""

_BUFFERED = 1024
"""Tokens gathered for one matrix product: fewer make it slower (memory-bound), more only take memory."""

_PANEL = 192
"""Rows of the product made at a time: more rows compute more of the redundant half, fewer leave cores idle."""

_PANEL_ON_DEVICE = 2048
"""The same on an accelerator, where each of many small products would wait for its launch."""

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
    """Sums of one layer's activations from which every pair's correlation follows.

    One pass over the tokens is enough. They are gathered less the mean so far, centred on their own mean and multiplied
    in float32; each product joins the sum so far by Chan's update, whose between-means term is one more row of the
    product. What a mean is rounded by goes with its distance from the mean so far, and nothing large is ever subtracted
    from a product: a neuron with a large mean and a tiny variance loses nothing. How the tokens are split into batches
    changes the result by float32 rounding alone.

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
        """Add the activations of the non-padding tokens of a batch: (tokens, neurons), any floating dtype."""
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
        mirror(comoment)
        _check_finite(mean, comoment)
        correlations = Correlations(self._count, mean, comoment)
        self._clear()
        return correlations

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


def merge_sums(parts: Sequence[Correlations], *, overwrite: bool = False) -> Correlations:
    """Add up the sums over disjoint parts, one after another.

    By Chan, Golub and LeVeque (1983): means in float64. A comoment is a sum of three terms in float32, the last of them
    an outer product of one vector with itself: it stays symmetric, and each part rounds by some 2^-24 of its size.

    Args:
        parts: in the order in which they are added.
        overwrite: add into the first part's comoment, which is the result's then, instead of a new one.

    Raises:
        ValueError: no parts, or parts of different width.
    """
    check_width(parts)
    first, *others = parts
    whole = first if overwrite else Correlations(first.count, first.mean, first.comoment.copy())
    for part in others:
        whole = _add(whole, part) if part.count else whole
    return whole


def _add(whole: Correlations, part: Correlations) -> Correlations:
    """Add a part to the comoment in place; a whole of no tokens is all zeros."""
    count, step = whole.count + part.count, part.mean - whole.mean
    between = torch.from_numpy((step * (whole.count * part.count / count) ** 0.5).astype(np.float32))
    comoment, added, height = torch.from_numpy(whole.comoment), _only_read(part.comoment), max(_CACHED // len(step), 1)
    for start in range(0, len(step), height):
        rows = slice(start, start + height)
        comoment[rows].add_(added[rows])
        comoment[rows].add_(torch.outer(between[rows], between))  # fused, the roundings would spoil the symmetry
    return Correlations(count, whole.mean + step * (part.count / count), whole.comoment)


def _only_read(array: Matrix) -> Tensor:
    """View an array as a tensor that nobody writes to.

    Torch warns of arrays that cannot be written, as those that were loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def without(total: Correlations, part: Correlations) -> Correlations:
    """Subtract the tokens of `part` from the sums of `total`.

    This is the inverse of `merge_sums`. Rounding grows with the ratio of the total to the rest: meant for parts that
    hold at most half of the tokens.

    Raises:
        ValueError: widths that differ, or a part with more tokens than the total.
    """
    if part.count > total.count:
        raise ValueError(f"Expected a part of the {total.count} tokens, got one of {part.count} tokens.")
    count = total.count - part.count
    if count == 0:
        return Correlations(0, np.zeros_like(total.mean), np.zeros_like(total.comoment))
    mean = (total.count / count) * total.mean - (part.count / count) * part.mean
    comoment = np.empty_like(total.comoment)
    for start in range(0, len(mean), TILE):
        rows = slice(start, start + TILE)
        tile = total.comoment[rows].astype(np.float64) - part.comoment[rows]
        for one, sign in ((total, 1), (part, -1)):
            delta = one.mean - mean
            tile += np.outer(sign * one.count * delta[rows], delta)
        comoment[rows] = tile
    mirror(comoment)  # products in another order are rounded otherwise
    return Correlations(count, mean, comoment)


def _centre(rows: Tensor) -> Tensor:
    """Subtract the rows' mean in place and return it in float64."""
    mean = rows.mean(0)
    rows -= mean
    return mean.double()


def _add_gram(comoment: Tensor, rows: Tensor) -> None:
    """Add rows' * rows to the comoment's upper triangle.

    Lower entries that share a panel with the triangle are added as well. Which way is fastest and exact depends on the
    width: see `_PANEL`, `_CHAIN` and `_WIDE`.
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
    """Choose a height that makes all panels nearly equal."""
    width, most = len(comoment), _PANEL if comoment.device.type == "cpu" else _PANEL_ON_DEVICE
    return -(-width // -(-width // most))


def mirror(matrix: Matrix) -> None:
    """Copy the upper triangle onto the lower one, in place."""
    for start in range(0, len(matrix), TILE):
        stop = start + TILE
        block = matrix[start:stop, start:stop]
        np.copyto(block, block.T.copy(), where=_LOWER[: len(block), : len(block)])
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def check_width(parts: Sequence[Correlations]) -> int:
    """Count the neurons that all parts have; `ValueError` where they differ or there are none."""
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

"""Dead neurons: those whose activation stays near zero over every token; faint ones: near zero for their layer."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pytest_quantcheck.errors import MeasurementError

Masks = NDArray[np.bool_]
Extremes = NDArray[np.float32]

DEAD_BELOW = np.float32(0.1)
"""A neuron is dead when every activation is strictly inside (-0.1, 0.1), as in the paper."""

RECTIFIED_DEAD_BELOW = np.float32(1e-6)
"""The same for the ReLU family."""

FAINT_BELOW = np.float32(0.1)
"""A neuron is faint when it never exceeds this share of the median amplitude in its layer of the reference."""


def new_extremes(groups: int, neurons: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Make minimum and maximum (groups, neurons) float32 of no tokens at all: +inf and -inf."""
    minimum = torch.full((groups, neurons), torch.inf, dtype=torch.float32, device=device)
    return minimum, -minimum


@torch.inference_mode()
def update_extremes(minimum: Tensor, maximum: Tensor, activations: Tensor, groups: Tensor) -> None:
    """Update each group's extremes with the activations of a batch, in place.

    It does not wait for the device. A NaN activation makes its neuron's extremes NaN, which `dead` refuses.

    Args:
        minimum: (g, neurons) float32.
        maximum: (g, neurons) float32.
        activations: (tokens, neurons), any floating dtype: those of the batch's non-padding tokens.
        groups: (tokens,) int64 in [0, g): the group of each token's prompt.

    Raises:
        ValueError: shapes that do not fit.
    """
    if activations.shape[1:] != minimum.shape[1:] or groups.shape != activations.shape[:1]:
        raise ValueError(
            f"Expected activations (tokens, {minimum.shape[1]}) and one group a token, got "
            f"{tuple(activations.shape)} and {tuple(groups.shape)}."
        )
    values = activations.to(torch.float32) if activations.dtype == torch.float64 else activations
    index = groups[:, None].expand_as(values)
    low = minimum.new_full(minimum.shape, torch.inf, dtype=values.dtype)  # half-precision values need no float32 copy
    high = -low
    torch.minimum(minimum, low.scatter_reduce_(0, index, values, "amin"), out=minimum)
    torch.maximum(maximum, high.scatter_reduce_(0, index, values, "amax"), out=maximum)


def dead(minimum: Extremes, maximum: Extremes, *, rectified: bool) -> Masks:
    """Find the neurons that are dead over all tokens of all groups.

    The comparison is made in float32 on both sides, as NumPy and torch make it for the paper: the limits are
    float32(0.1), a little above 0.1, and float32(1e-6), a little below 1e-6. bf16 and fp16 activations are exact
    in float32 and compared by value; float64 ones are rounded to float32 first.

    Args:
        minimum: (g, neurons) float32, each group's smallest activation.
        maximum: (g, neurons) float32, each group's largest.
        rectified: the activation function is of the ReLU family: dead below 1e-6 in magnitude.

    Returns:
        (neurons,) bool.

    Raises:
        MeasurementError: no token was seen, or an activation was not finite.

    Example:
        >>> low, high = np.float32([[-0.05, -0.2], [0.0, 0.0]]), np.float32([[0.02, 0.0], [0.09, 0.3]])
        >>> dead(low, high, rectified=False).tolist()
        [True, False]
    """
    return _inside(*_over_all(minimum, maximum), rectified=rectified)


def dead_without_each(minimum: Extremes, maximum: Extremes, *, rectified: bool) -> Masks:
    """Find the dead neurons without each group: row i of (g, neurons) bool leaves out group i; see `dead`."""
    low, high = _without_each(minimum, np.minimum, np.inf), _without_each(maximum, np.maximum, -np.inf)
    return _inside(low, high, rectified=rectified)


def amplitude(minimum: Extremes, maximum: Extremes) -> Extremes:
    """Find each neuron's largest magnitude over all tokens: (g, neurons) each to (neurons,) float32.

    Raises:
        MeasurementError: no token was seen, or an activation was not finite.
    """
    return _amplitude(*_over_all(minimum, maximum))


def amplitude_without_each(minimum: Extremes, maximum: Extremes) -> Extremes:
    """Find the amplitudes without each group: row i of (g, neurons) float32 leaves out group i; see `amplitude`."""
    return _amplitude(_without_each(minimum, np.minimum, np.inf), _without_each(maximum, np.maximum, -np.inf))


def faint(amplitudes: Extremes, reference: Extremes) -> Masks:
    """Find faint neurons: not above a tenth of the median amplitude of the reference's neurons.

    Unlike `dead`, this uses the layer's scale. The fixed limit of `dead` finds all neurons dead where all activations
    are small, and none where all are large. The scale is the reference's for both models, so that a layer whose
    activations all vanish is seen. Neurons that are always 0 do not count for the scale, and are always faint.

    Args:
        amplitudes: (neurons,) float32 of either model, or (g, neurons).
        reference: the same of the reference.

    Returns:
        bool, of the shape of `amplitudes`.

    Example:
        >>> faint(np.float32([0.5, 3.0, 0.0]), np.float32([8.0, 10.0, 0.0])).tolist()
        [True, False, True]
    """
    moving = np.where(reference > 0, reference, np.nan)
    moving[~np.any(reference > 0, axis=-1)] = 0  # nothing moves: what does not move in either is the scale, 0
    return np.asarray(amplitudes <= FAINT_BELOW * np.nanmedian(moving, axis=-1, keepdims=True))


def dead_neuron_gain(reference: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    """Measure the change of the share of dead neurons.

    It is the candidate's share minus the reference's, in [-1, 1], signed, so that its interval can be folded: the delta
    is its size. Masks (neurons,) give a number, (g, neurons) give (g,).

    Example:
        >>> float(dead_neuron_gain([True, False, False, False], [False, True, True, False]))
        0.25
    """
    expected, obtained = _same_shape(reference, candidate)
    return np.asarray((obtained.sum(axis=-1) - expected.sum(axis=-1)) / expected.shape[-1])


def dead_neuron_churn(reference: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    """Measure the share of neurons whose state differs, in [0, 1]; shapes as in `dead_neuron_gain`.

    Equal counts can hide different neurons; churn is never below the delta.

    Example:
        >>> float(dead_neuron_churn([True, False, False, False], [False, True, True, False]))
        0.75
    """
    expected, obtained = _same_shape(reference, candidate)
    return np.asarray((expected != obtained).mean(axis=-1))


def _over_all(minimum: Extremes, maximum: Extremes) -> tuple[Extremes, Extremes]:
    """Find each neuron's extremes over all groups; +inf and -inf without groups."""
    return minimum.min(axis=0, initial=np.float32(np.inf)), maximum.max(axis=0, initial=np.float32(-np.inf))


def _inside(low: Extremes, high: Extremes, *, rectified: bool) -> Masks:
    _check_seen(low, high)
    limit = RECTIFIED_DEAD_BELOW if rectified else DEAD_BELOW
    return (low > -limit) & (high < limit)


def _amplitude(low: Extremes, high: Extremes) -> Extremes:
    _check_seen(low, high)
    return np.maximum(-low, high)


def _check_seen(low: Extremes, high: Extremes) -> None:
    if np.any(low > high):
        raise MeasurementError("Expected at least one token for each neuron, got none; measure more prompts.")
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        bad = np.flatnonzero(~np.all(np.atleast_2d(np.isfinite(low) & np.isfinite(high)), axis=0))
        raise MeasurementError(
            f"Expected finite activations, got NaN or infinity in {len(bad)} of {low.shape[-1]} neurons (the first is "
            f"{bad[0]}); the model overflows: load it in another dtype."
        )


def _without_each(extremes: Extremes, further: np.ufunc, nothing: float) -> Extremes:
    """Reduce over all rows but i, for each i: the rows before it, then those after it."""
    none = np.full_like(extremes[:1], nothing)
    before = further.accumulate(np.concatenate([none, extremes[:-1]]))
    after = further.accumulate(np.concatenate([none, extremes[:0:-1]]))[::-1]
    return np.asarray(further(before, after))


def _same_shape(reference: ArrayLike, candidate: ArrayLike) -> tuple[Masks, Masks]:
    expected, obtained = np.asarray(reference, dtype=bool), np.asarray(candidate, dtype=bool)
    if expected.shape != obtained.shape or expected.shape[-1:] in ((), (0,)):
        raise ValueError(f"Expected two masks over the same neurons, got shapes {expected.shape}, {obtained.shape}.")
    return expected, obtained

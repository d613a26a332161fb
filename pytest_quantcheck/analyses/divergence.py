"""Kullback-Leibler divergence of answer distributions, over the reference's most probable tokens."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from torch import Tensor

Floats = NDArray[np.float64]

_NORMALISED = 1e-3
"""How far the log of a distribution's total may be from 0: float32 rounding of a vocabulary stays below 1e-5."""

_NORMALISED_FLOAT16 = 5e-3
"""The same of log-probabilities in float16: those of probabilities from 1/2981 to 1/55 are rounded by up to 1/512."""


def top_log_probs(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the k most probable tokens of each prompt, with log-probabilities.

    Args:
        logits: (n, vocabulary), any floating dtype; computed in float32, or in float64 if they are.
        k: size of the support; the whole vocabulary if that is smaller.

    Returns:
        support (n, k) int32, most probable first; log_probs (n, k), and rest (n,), that of all other tokens, in nats
        and in the dtype computed in.
        `rest` is -inf where the support is the whole vocabulary. All stay on the device of the logits.
    """
    log_probs = _log_softmax(logits)
    top = log_probs.topk(min(k, log_probs.shape[1]), dim=1)
    return top.indices.int(), top.values, _complement(log_probs, top.indices)


def log_probs_at(logits: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log-probabilities of tokens `support` (n, k) and of all others; see `top_log_probs`."""
    log_probs = _log_softmax(logits)
    index = support.long()
    return log_probs.gather(1, index), _complement(log_probs, index)


def token_log_probs(logits: Tensor, token: Tensor) -> Tensor:
    """Compute the log-probability of one token (n,) int64 for each row; see `top_log_probs`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.gather(1, token.long()[:, None])[:, 0] - wide.logsumexp(1)


def kl_on_support(
    reference_log_probs: ArrayLike,
    reference_rest: ArrayLike,
    candidate_log_probs: ArrayLike,
    candidate_rest: ArrayLike,
) -> Floats:
    """Measure each prompt's KL(reference || candidate) over parts of the vocabulary.

    The parts are each support token and all other tokens together. Merging tokens into one part can only lose
    information, so this is a lower bound on the divergence over the whole vocabulary, and equal to it when the support
    is exhaustive. Each distribution is normalised in float64 first: the rounding of stored float32 values cannot make
    the divergence negative.

    Args:
        reference_log_probs: (n, k), nats; -inf is a probability of 0 and contributes nothing.
        reference_rest: (n,), nats; log-probability of all other tokens.
        candidate_log_probs: (n, k), of the same tokens.
        candidate_rest: (n,).

    Returns:
        (n,) float64, nats, at least 0.

    Raises:
        ValueError: shapes that differ, values that are no distribution, or a candidate that gives probability 0
            to what the reference holds possible.

    Example:
        >>> half = np.log([[0.5]])
        >>> kl_on_support(half, np.log([0.5]), np.log([[0.25]]), np.log([0.75])).round(4).tolist()
        [0.1438]
    """
    reference = _partition(reference_log_probs, reference_rest, "reference")
    candidate = _partition(candidate_log_probs, candidate_rest, "candidate")
    if reference.shape != candidate.shape:
        raise ValueError(f"Expected the same support, got {reference.shape} and {candidate.shape} (n, k + 1) parts.")
    possible = np.isfinite(reference)
    _refuse("finite log-probabilities where the reference's are", np.any(possible & np.isneginf(candidate), axis=1))
    difference = np.subtract(reference, candidate, out=np.zeros_like(reference), where=possible)
    return np.asarray(np.maximum(np.sum(np.exp(reference) * difference, axis=1), 0.0))


def _log_softmax(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(
            f"Expected floating-point logits of shape (n, vocabulary), got {logits.dtype} {tuple(logits.shape)}."
        )
    return torch.log_softmax(logits, dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _complement(log_probs: Tensor, support: Tensor) -> Tensor:
    return log_probs.scatter(1, support, -torch.inf).logsumexp(1)


def _partition(log_probs: ArrayLike, rest: ArrayLike, whose: str) -> Floats:
    parts, remainder = np.asarray(log_probs, dtype=np.float64), np.asarray(rest, dtype=np.float64)
    if parts.ndim != 2 or remainder.shape != parts.shape[:1]:
        raise ValueError(
            f"Expected log-probabilities (n, k) and a rest (n,) of the {whose}, got {parts.shape} and "
            f"{remainder.shape}."
        )
    joined: Floats = np.column_stack([parts, remainder])
    total = np.asarray(logsumexp(joined, axis=1))
    most = _NORMALISED_FLOAT16 if np.asarray(log_probs).dtype == np.float16 else _NORMALISED
    _refuse(f"log-probabilities of the {whose} that add up to 1", ~(np.abs(total) <= most))
    return np.asarray(joined - total[:, None])


def _refuse(expected: str, bad: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        named = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise ValueError(
            f"Expected {expected}, got others in {len(rows)} of {len(bad)} rows ({named}); look at the logits there."
        )

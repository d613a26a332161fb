"""Which neurons an answer rests on: layer integrated gradients that say when they have not converged.

Integrated gradients (Sundararajan et al. 2017) attribute F(x) - F(b) to the coordinates of x along the straight
path from b to x. Completeness, that the attributions sum to F(x) - F(b), gives the error of the quadrature for
free; nodes are added until it is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import roots_legendre

SALIENT_ABOVE = 0.7
"""Share of the largest attribution above which a neuron is salient (the paper's)."""

PROBE = 8
"""Prompts of a layer that are attributed first; where less than half of them converge, the layer is given up."""

FLOOR = 0.1
"""Nats. A completeness error is taken relative to the difference of the log-probability between the path's ends,
but to no less than this: where the ends differ by almost nothing, float32 noise would be all that is left."""

TOLERANCE = 0.05
"""Relative completeness error up to which an attribution counts as converged. Smooth integrands fall far below it
with four nodes; where there is no convergence the error is of the order of one, whatever the nodes."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Attributions of m prompts and their quality.

    `values` (m, tokens, d) float32, nats; `error` (m,) relative completeness error; `nodes` (m,) int64.
    """

    values: torch.Tensor
    error: torch.Tensor
    nodes: torch.Tensor


def integrated_gradients(
    function: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    end: torch.Tensor,
    *,
    nodes: int,
    copies: int = 1,
) -> Attribution:
    """Attribute function(end) - function(start) with a fixed number of Gauss-Legendre nodes.

    Args:
        function: (copies * m, tokens, d) -> (copies * m,), rows in whole copies of the m prompts, independent
            of one another and differentiable.
        start: (m, tokens, d), where the path starts: the baseline.
        end: (m, tokens, d), where it ends: the activations on the prompts.
        nodes: quadrature nodes, at least 1; a polynomial of degree 2 * nodes - 1 is integrated exactly.
        copies: nodes evaluated at once; memory grows with it, the result does not depend on it.
    """
    points, weights = _nodes(nodes, end.device)
    step = end - start
    gradient = torch.zeros_like(end)
    for first in range(0, nodes, copies):
        at = points[first : first + copies]
        path = (start + at[:, None, None, None] * step).flatten(0, 1).requires_grad_()
        (slope,) = torch.autograd.grad(function(path).sum(), path)
        gradient += torch.einsum("k,kmtd->mtd", weights[first : first + copies], slope.view(len(at), *step.shape))
    values = gradient * step
    return Attribution(values, completeness_error(function, start, end, values), torch.full((len(end),), nodes))


def completeness_error(
    function: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, end: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Relative error (m,) of the attributions' sum against the true difference; see `FLOOR`. Range 0 to inf."""
    with torch.no_grad():
        truth = (function(end) - function(start)).double()
        return (values.double().sum(dim=(1, 2)) - truth).abs() / truth.abs().clamp(min=FLOOR)


def salient(attributions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Neurons above 0.7 of the largest under any of the paper's rules, (m, d) bool.

    Args:
        attributions: (m, tokens, d).
        real: (m, tokens) bool, which positions hold a token.

    The rules reduce the tokens in three ways: the most attributed token alone (the one whose attributions sum
    highest), the sum over tokens of the absolute attributions, and the maximum over tokens of the signed ones.
    Each is then taken absolute and divided by its largest. (The paper's fourth, the average, is the second.)
    Where the paper's code keys tokens by their string, so that repeated tokens overwrite one another, every
    token counts here.
    """
    outside = ~real[..., None]
    best = attributions.sum(dim=-1).masked_fill(~real, -torch.inf).argmax(dim=1)
    most_attributed = attributions[torch.arange(len(best), device=best.device), best]
    summed = attributions.masked_fill(outside, 0).abs().sum(dim=1)
    highest = attributions.masked_fill(outside, -torch.inf).amax(dim=1)
    return _above(most_attributed) | _above(summed) | _above(highest)


def attributable(converged: NDArray[np.bool_]) -> bool:
    """Whether enough attributions of a layer, (m,) bool, converged to speak of its salient neurons: half of them."""
    return bool(2 * np.count_nonzero(converged) >= max(1, len(converged)))


def given_up(converged: NDArray[np.bool_]) -> bool:
    """Whether a layer is left after its first prompts, of (m,) in the order of the prompt set."""
    return not attributable(converged[:PROBE])


def jaccard(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Jaccard index (m,) float64 in [0, 1] of two families of sets (m, d) bool; 1 where both are empty."""
    union = (reference | candidate).sum(axis=1)
    both = (reference & candidate).sum(axis=1)
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def _nodes(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    points, weights = roots_legendre(count)
    on_unit = torch.tensor(np.stack([(points + 1) / 2, weights / 2]), dtype=torch.float32, device=device)
    return on_unit[0], on_unit[1]


def _above(scores: torch.Tensor) -> torch.Tensor:
    size = scores.abs()
    return size > SALIENT_ABOVE * size.amax(dim=1, keepdim=True)

"""Salient neurons: layer integrated gradients that report when they have not converged.

Integrated gradients (Sundararajan et al. 2017) attribute F(x) - F(b) to the coordinates of x along the straight
path from b to x. By completeness the attributions sum to F(x) - F(b), which gives the error of the quadrature at no
cost. This holds for every piece of the path as well, and F is known at every node: so a sum that is right by chance
is detected. Nodes are added until all pieces are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray
from scipy.special import roots_legendre

SALIENT_ABOVE = 0.7
"""Share of the largest attribution above which a neuron is salient (the paper's)."""

PROBES = (5, 8)
"""Numbers of prompts after which a layer is given up if fewer than half of the last number can converge."""

FLOOR = 0.1
"""Nats. A completeness error is taken relative to the difference of the log-probability between the path's ends,
but to no less than this: where the ends differ by almost nothing, float32 noise would be all that is left."""

TOLERANCE = 0.05
"""Relative completeness error up to which an attribution counts as converged. Smooth integrands fall far below it
with nine nodes; where there is no convergence the error is of the order of one, whatever the nodes."""

_END = 1
"""The path's end among a rule's points."""


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nested quadrature on [0, 1]: each level reuses the nodes of the one before.

    `points` (p,) float64, the path's ends first; `integrals` (levels, p, p) float64: times the values at the points,
    row k of a level integrates their interpolation from 0 to point k; `sizes`: how many of the points each level
    uses, `checked`: how many of them have integrals exact enough to be compared with the function; `nodes`: number of
    quadrature nodes of each level.
    """

    points: NDArray[np.float64]
    integrals: NDArray[np.float64]
    sizes: tuple[int, ...]
    checked: tuple[int, ...]
    nodes: tuple[int, ...]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights of the integral over the whole path, (levels, p) float64."""
        return self.integrals[:, _END]


def lobatto_kronrod(levels: int = 4) -> Quadrature:
    """Build nested quadrature with 5, 9, 17, 33, ... nodes.

    It begins with Lobatto's five. The ends of the path are nodes, so the difference that completeness needs costs
    nothing. Exact for polynomials up to degree 7, 13, 25 and 33, where Clenshaw-Curtis nodes, as nested as these, come
    to 5, 9, 17 and 33. (Patterson, Math. Comp. 22, 1968; Gander and Gautschi, BIT 40, 2000.)
    """
    nodes, sizes = np.array([-1.0, 1.0, 0.0]), []
    for _ in range(levels):
        nodes = np.append(nodes, _between(np.sort(nodes)))
        sizes.append(len(nodes))
    points = (1 + nodes) / 2
    integrals = np.zeros((levels, len(points), len(points)))
    for level, n in enumerate(sizes):
        integrals[level, :n, :n] = _integrals(points[:n], points[:n])
    return Quadrature(points, integrals, sizes=tuple(sizes), checked=tuple(sizes), nodes=tuple(sizes))


def _between(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place one more node between each two nodes of a rule.

    Nodes lie in [-1, 1]: from (n,), ascending and symmetric, to (n - 1,), ascending. They are Kronrod's: the zeros of
    the polynomial whose product with the nodes' polynomial is orthogonal to all of lower degree, so that n - 1 more
    degrees are integrated exactly. Where these are not real, the nodes halfway in angle.
    """
    more = len(nodes) - 1
    x, weight = roots_legendre(2 * len(nodes))
    basis = legendre.legvander(x, more)
    product = basis.T @ ((weight * np.prod(x[:, None] - nodes, axis=1))[:, None] * basis)
    zeros = legendre.legroots([*np.linalg.solve(product[:more, :more], -product[:more, more]), 1.0])
    if np.iscomplexobj(zeros):
        angle = np.arccos(-nodes)
        zeros = -np.cos((angle[1:] + angle[:-1]) / 2)
    return np.asarray((zeros - zeros[::-1]) / 2)


def gauss_legendre(nodes: int) -> Quadrature:
    """Build Gauss-Legendre quadrature (the paper takes 50 nodes).

    A polynomial of degree 2 * nodes - 1 is integrated exactly, but only over the whole path: pieces of the path are not
    checked.
    """
    inside = (roots_legendre(nodes)[0] + 1) / 2
    points = np.concatenate([[0.0, 1.0], inside])
    integrals = np.zeros((1, nodes + 2, nodes + 2))
    integrals[0, :, 2:] = _integrals(inside, points)
    return Quadrature(points, integrals, sizes=(nodes + 2,), checked=(2,), nodes=(nodes,))


def _integrals(nodes: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the weights that integrate an interpolation from 0 to points.

    They are (k, n), for each point of `to`. The interpolation is of values at the nodes (n,); `to` is (k,).
    """
    series = np.linalg.inv(chebyshev.chebvander(2 * nodes - 1, len(nodes) - 1))
    primitive = chebyshev.chebint(series, lbnd=-1, scl=0.5, axis=0)
    return np.asarray(chebyshev.chebvander(2 * to - 1, len(nodes)) @ primitive)


@dataclass(frozen=True, eq=False)
class PathIntegral:
    """The path integral of m prompts and its quality.

    `gradient` (m, ...) float32: the gradient averaged over the path; times the step from start to end it is the
    attribution, in nats. `at_end` (m,) float64: the function at the path's end; `error` (m,) float64: relative
    completeness error, the largest over the pieces of the path that the rule checks, from 0 to inf; `nodes` (m,)
    int64: quadrature nodes used.
    """

    gradient: torch.Tensor
    at_end: torch.Tensor
    error: torch.Tensor
    nodes: torch.Tensor


def integrated_gradients(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    end: torch.Tensor,
    *,
    rule: Quadrature,
    tolerance: float = 0.0,
    at_once: int = 1,
) -> PathIntegral:
    """Average the function's gradient over the straight path.

    Prompts that need more nodes get them. A prompt is done at the level at which its completeness error is within the
    tolerance, or at which twice the nodes did not halve it: on a smooth path they reduce it far more.

    Args:
        function: (n, ...) and the prompt of each row, (n,) int64, -> (n,); rows independent and differentiable.
        start: (m, ...), where the path starts: the baseline.
        end: (m, ...), where it ends: what is there on the prompts.
        rule: the quadrature.
        tolerance: relative completeness error up to which a prompt is done.
        at_once: rows in one evaluation, at least those of one node; memory grows with it, results do not depend
            on it.
    """
    step, everyone = end - start, torch.arange(len(end), device=end.device)
    points, weights = (torch.tensor(part, dtype=end.dtype, device=end.device) for part in (rule.points, rule.weights))
    integrals = torch.tensor(rule.integrals, device=end.device)
    # so far: each level's average gradient; at each node the derivative along the path, and the function
    sums = step.new_zeros(len(weights), *step.shape)
    slopes, heights = (step.new_zeros(len(points), len(end), dtype=torch.float64) for _ in range(2))
    error, level_of = step.new_full((len(end),), torch.inf, dtype=torch.float64), torch.zeros_like(everyone)
    rows, done = everyone, 0
    for level, size in enumerate(rule.sizes):
        # evaluate this level's new nodes for the prompts that are not done
        copies = max(1, at_once // len(rows))
        for new in torch.split(torch.arange(done, size, device=end.device), copies):
            value, slope = _evaluate(function, start[rows], step[rows], points[new], rows)
            heights[new[:, None], rows] = value
            slopes[new[:, None], rows] = (slope * step[rows]).flatten(2).sum(dim=2, dtype=torch.float64)
            for finer in range(level, len(weights)):
                sums[finer, rows] += torch.tensordot(weights[finer, new], slope, dims=1)
        done = size
        # check this level's integrals against the function
        before = error[rows]
        checked = slice(rule.checked[level])
        now = _completeness_error(integrals[level, checked] @ slopes[:, rows], heights[checked, rows])
        error[rows], level_of[rows] = now, level
        # go on with the prompts that need more nodes and gain from them
        rows = rows[(now > tolerance) & (now <= before / 2)]
        if not len(rows):
            break
    nodes = torch.tensor(rule.nodes, device=end.device)[level_of]
    return PathIntegral(sums[level_of, everyone], heights[_END], error, nodes)


def _evaluate(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    step: torch.Tensor,
    points: torch.Tensor,
    rows: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluate function and gradient: (points, rows) float64 and (points, rows, ...), at points of the paths."""
    at = (start + points[:, *[None] * step.ndim] * step).flatten(0, 1).requires_grad_()
    value = function(at, rows.repeat(len(points)))
    (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach().double().view(len(points), -1), slope.view(len(points), *step.shape)


def _completeness_error(total: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Find each prompt's largest relative error: `total` (points, m) against `heights` (points, m); see `FLOOR`."""
    truth = heights - heights[0]
    return ((total - truth).abs().amax(0) / truth[_END].abs().clamp(min=FLOOR)).nan_to_num(torch.inf)


def salient(attributions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Find the salient neurons: above 0.7 of the largest by one of the paper's rules.

    Args:
        attributions: (m, tokens, d).
        real: (m, tokens) bool, which positions hold a token; or (m, tokens, d), for which neurons each counts.

    Returns:
        (m, d) bool.

    The rules reduce the tokens in three ways: the most attributed token alone (the one whose attributions sum
    highest), the sum over tokens of the absolute attributions, and the maximum over tokens of the signed ones.
    Each is then taken absolute and divided by its largest. (The paper's fourth, the average, is the second.)
    Where the paper's code keys tokens by their string, so that repeated tokens overwrite one another, every
    token counts here.
    """
    counts = real[..., None] if real.ndim == 2 else real
    best = attributions.sum(dim=-1).masked_fill(~counts.any(dim=-1), -torch.inf).argmax(dim=1)
    most_attributed = attributions[torch.arange(len(best), device=best.device), best]
    summed = attributions.masked_fill(~counts, 0).abs().sum(dim=1)
    highest = attributions.masked_fill(~counts, -torch.inf).amax(dim=1).masked_fill(~counts.any(dim=1), 0)
    return _above(most_attributed) | _above(summed) | _above(highest)


def attributable(converged: NDArray[np.bool_]) -> bool:
    """Say whether at least half of a layer's attributions converged, (m,) bool: enough for its salient neurons."""
    return bool(2 * np.count_nonzero(converged) >= max(1, len(converged)))


def given_up(converged: NDArray[np.bool_], planned: int) -> bool:
    """Decide whether a layer is given up after its first prompts.

    Args:
        converged: (m,) of the first m prompts, in the order of the prompt set.
        planned: prompts that are attributed otherwise.
    """
    probe = min(PROBES[-1], planned)
    first = converged[:probe]
    return bool(2 * (np.count_nonzero(first) + probe - len(first)) < probe)


def jaccard(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compare pairs of sets by the Jaccard index: (m, d) bool to (m,) float64 in [0, 1]; 1 where both are empty."""
    union = (reference | candidate).sum(axis=1)
    both = (reference & candidate).sum(axis=1)
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def _above(scores: torch.Tensor) -> torch.Tensor:
    size = scores.abs()
    return size > SALIENT_ABOVE * size.amax(dim=1, keepdim=True)

"""Where two models differ on what the reference wrote.

Percentiles of token KL, its course along a passage, and the worst passages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pytest_quantcheck.analyses.divergence import kl_on_support
from pytest_quantcheck.analyses.resampling import Floats
from pytest_quantcheck.records import Measurement, Passage, PlaceDivergence, ScoredToken, ScoredTokens, TokenDivergence

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)
"""Percentiles of token KL that are told."""

SHOWN = 10
"""Passages that are told, the worst ones."""

_Text = Callable[[int], str]
_SPANS = 16  # most groups of places; those of longer passages are of several places each


def token_divergences(before: ScoredTokens, after: ScoredTokens) -> Floats:
    """Measure token KL at each scored token, (t,) float64 in nats: over the reference's support and the rest.

    Raises:
        ValueError: it is infinite, or there are no distributions.
    """
    return kl_on_support(before.log_probs, before.rest, after.log_probs, after.rest)


def token_divergence(reference: Measurement, candidate: Measurement) -> TokenDivergence | None:
    """Find where the scored tokens of two models differ; None without any, or where token KL is infinite."""
    before, after = reference.scored, candidate.scored
    if before is None or after is None:
        return None
    try:
        divergence = token_divergences(before, after)
    except ValueError:
        return None
    percentiles = np.percentile(divergence, PERCENTILES, method="inverted_cdf")
    return TokenDivergence(
        percentiles={f"{share:g}": float(value) for share, value in zip(PERCENTILES, percentiles, strict=True)},
        places=tuple(_places(divergence, before)),
        worst=tuple(_worst(divergence, before, after, (reference.text_of, candidate.text_of))),
    )


def _places(divergence: Floats, scored: ScoredTokens) -> Iterator[PlaceDivergence]:
    """Summarize token KL by place in the passage."""
    starts = np.cumsum(scored.lengths) - scored.lengths
    place = np.arange(len(divergence)) - np.repeat(starts, scored.lengths)
    longest = int(scored.lengths.max())
    span = -(-longest // _SPANS)
    for first in range(0, longest, span):
        there = divergence[(place >= first) & (place < first + span)]
        yield PlaceDivergence(
            first=first + 1,
            last=min(first + span, longest),
            count=len(there),
            mean=float(there.mean()),
            p95=float(np.percentile(there, 95, method="inverted_cdf")),
        )


def _worst(
    divergence: Floats, before: ScoredTokens, after: ScoredTokens, texts: tuple[_Text, _Text]
) -> Iterator[Passage]:
    """Yield the passages with the largest mean, if any, worst first."""
    starts = np.cumsum(before.lengths) - before.lengths
    means = np.add.reduceat(divergence, starts) / before.lengths
    written, top = texts
    for row in np.argsort(-means, kind="stable")[:SHOWN].tolist():
        if means[row] > 0:
            yield Passage(
                index=int(before.index[row]),
                divergence=float(means[row]),
                tokens=tuple(
                    ScoredToken(
                        written=written(before.token[token]),
                        top=top(after.top[token]),
                        divergence=float(divergence[token]),
                    )
                    for token in range(starts[row], starts[row] + before.lengths[row])
                ),
            )

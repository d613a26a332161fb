"""Evidence of a prompt set: which metrics can move at all, given the reference's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pytest_quantcheck.records import Answers, Evidence

CHANCE = 0.05
"""The largest probability with which one constant answer may be right as often as a reference that is better."""


def evidence_of(answers: Answers, golds: Sequence[str], available: int) -> Evidence:
    """Find what a prompt set and the reference's answers can show.

    Args:
        answers: the reference's.
        golds: the gold answer of every prompt of the set; `answers.index` are positions in it.
        available: prompts of the set's source.
    """
    right, inputs = answers.correct, len(answers.index)
    texts = {gold.casefold(): gold for gold in reversed(golds)}
    counts = Counter(golds[position].casefold() for position in answers.index.tolist())
    commonest, times = min(counts.items(), key=lambda item: (-item[1], item[0]))
    facts: dict[str, Any] = {
        "prompts": len(golds),
        "available": available,
        "inputs": inputs,
        "accuracy": float(right.mean()),
        "answers": len(np.unique(answers.token)),
        "golds": len(counts),
        "commonest": texts[commonest],
        "share": times / inputs,
    }
    reasons = {metric: why_not(Evidence(**facts)) for metric, why_not in _WHY_NOT.items()}
    return Evidence(**facts, lacking={metric: reason for metric, reason in reasons.items() if reason})


def _why_no_accuracy(evidence: Evidence) -> str:
    """Say why accuracy cannot be shown to fall; the text is empty if it can.

    The reference must be right more often than the commonest gold alone would be, by a one-sided exact binomial test.
    """
    right = round(evidence.accuracy * evidence.inputs)
    if stats.binom.sf(right - 1, evidence.inputs, evidence.share) <= CHANCE:
        return ""
    return (
        f"the reference is right on {evidence.accuracy:.1%}, and one answer to every prompt, "
        f"{evidence.commonest!r:.40}, would be right on {evidence.share:.1%}"
    )


def _why_no_calibration(evidence: Evidence) -> str:
    if 0 < evidence.accuracy < 1:
        return ""
    missing = "wrong" if evidence.accuracy else "right"
    return f"calibration needs right and wrong answers, and the reference gives no {missing} one"


def _why_no_flips(evidence: Evidence) -> str:
    return "the reference gives one answer to every prompt" if evidence.answers == 1 else ""


_WHY_NOT: dict[str, Callable[[Evidence], str]] = {
    "accuracy_drop": _why_no_accuracy,
    "ace_drift": _why_no_calibration,
    "flip_rate": _why_no_flips,
}
"""For each metric that a reference's answers may be unable to move, the function that says why."""

"""From comparisons of controls to the text of a profile whose limits lie between harmless and damaged."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import Limit, Profile, Rule
from pytest_quantcheck.profiles.calibrating.evidence import description, evidence
from pytest_quantcheck.profiles.calibrating.limits import LimitBasis, find_limits
from pytest_quantcheck.profiles.writing import profile_text
from pytest_quantcheck.records import Comparison


def calibrated(
    harmless: Sequence[Comparison], damaged: Sequence[Comparison], *, name: str, version: int, rate: float
) -> str:
    """Return the text of a profile that lies between harmless and damaged models.

    A metric's limit is the geometric mean of H and D, or H where no defect is seen; one limit for all layers. H is how
    far harmless models go by chance on fresh prompts, see `harmless_bound`; D is the smallest shift among the defects
    whose interval lies beyond H. Of the overlap, both are what is missing to 1.

    Many metrics are tested at once. The rate is shared equally by all tests, one for each metric and layer
    (Bonferroni's correction), so that all together fail a harmless candidate on one prompt set at most that often,
    however they depend on each other. That holds for the rule written, `point`: the value alone decides.

    Args:
        harmless: comparisons of nulls, equivalent rewrites, and roundings that do no harm.
        damaged: comparisons of defects.
        name: the profile's name.
        version: the profile's version, from 1 up.
        rate: share of harmless candidates that all limits together may fail, in (0, 0.5].

    Raises:
        MeasurementError: no metric has a harmless value from which a limit follows.
    """
    findings, tests = find_limits(harmless, damaged, rate)
    rules = tuple(_rule(finding, [*harmless, *damaged]) for finding in findings if finding.can_fail)
    if not rules:
        raise MeasurementError(
            "expected at least one metric that the harmless models give a value of, and that leaves room for damage, "
            "got none: there is no limit to write. Measure more prompts."
        )
    return profile_text(
        Profile(
            name=name,
            version=version,
            description=description(findings, harmless, damaged, tests, rate),
            confidence=next(estimate.confidence for comparison in harmless for estimate in comparison.estimates),
            inconclusive="point",
            rules=rules,
            path="",
        )
    )


def _rule(finding: LimitBasis, comparisons: Sequence[Comparison]) -> Rule:
    return Rule(
        limit=Limit(
            metric=finding.metric,
            value=finding.limit,
            direction=METRICS[finding.metric].direction,
            evidence=evidence(finding, comparisons),
            source="",
        )
    )

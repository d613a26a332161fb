"""The text of a profile, drafted from comparisons with controls."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import Limit, Profile, Rule
from pytest_quantcheck.profiles.calibrating.derivation import DerivedLimit, derive_limits
from pytest_quantcheck.profiles.calibrating.evidence import description, evidence
from pytest_quantcheck.profiles.writing import profile_text
from pytest_quantcheck.records import Comparison


def draft_profile(
    harmless: Sequence[Comparison], damaged: Sequence[Comparison], *, name: str, version: int, rate: float
) -> str:
    """Draft a profile's text, with limits between harmless and damaged models.

    A metric's limit is the geometric mean of H and D, or H where no defect is seen; one limit for all layers. H is how
    far harmless models go by chance on fresh prompts, see `harmless_bound`; D is the smallest shift among the defects
    whose interval lies beyond H. For the overlap, H and D are distances to 1.

    Many metrics are tested at once. The rate is shared equally by all tests, one for each metric and layer (Bonferroni
    correction): all tests together fail a harmless candidate on one prompt set at most that often, however they depend
    on each other. This holds for the decision rule of the profile, `point`: the value alone decides.

    Args:
        harmless: comparisons of nulls, equivalent rewrites, and roundings that do no harm.
        damaged: comparisons of defects.
        name: the profile's name.
        version: the profile's version, from 1 up.
        rate: the false-alarm rate: the share of harmless candidates that all limits together may fail, in (0, 0.5].

    Raises:
        MeasurementError: no metric has a harmless value to derive a limit from.
    """
    derived, tests = derive_limits(harmless, damaged, rate)
    rules = tuple(_rule(limit, [*harmless, *damaged]) for limit in derived if limit.can_fail)
    if not rules:
        raise MeasurementError(
            "expected at least one metric with a value of the harmless models and with room for damage beyond it, got "
            "none: there is no limit to write. Measure more prompts."
        )
    return profile_text(
        Profile(
            name=name,
            version=version,
            description=description(derived, harmless, damaged, tests, rate),
            confidence=next(estimate.confidence for comparison in harmless for estimate in comparison.estimates),
            inconclusive="point",
            rules=rules,
            path="",
        )
    )


def _rule(derived: DerivedLimit, comparisons: Sequence[Comparison]) -> Rule:
    return Rule(
        limit=Limit(
            metric=derived.metric,
            value=derived.limit,
            direction=METRICS[derived.metric].direction,
            evidence=evidence(derived, comparisons),
            source="",
        )
    )

"""The evidence of limits and the description of a profile, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles.calibrating.derivation import DerivedLimit
from pytest_quantcheck.profiles.calibrating.shifts import metric_value
from pytest_quantcheck.records import Comparison
from pytest_quantcheck.text import counted


def evidence(derived: DerivedLimit, comparisons: Sequence[Comparison]) -> str:
    """Write the evidence of one limit.

    It names harmless and damaged values, the defects that the limit cannot see, prompts, model and versions.
    """
    return " ".join((*_sentences(derived), f"{_prompts(derived)} {circumstances(comparisons)}"))


def description(
    limits: Iterable[DerivedLimit],
    harmless: Sequence[Comparison],
    damaged: Sequence[Comparison],
    tests: int,
    rate: float,
) -> str:
    """Say how the limits were derived, and which metrics have none."""
    counts = f"{counted(len(harmless), 'harmless comparison')} and {counted(len(damaged), 'comparison')} with damage"
    without = _without_limit(limits)
    left_out = " Without a limit: " + "; ".join(f"{metric} ({why})" for metric, why in without.items()) + "."
    return (
        f"Made by --quantcheck-calibrate from {counts}: {circumstances([*harmless, *damaged])} A limit is the "
        "geometric mean of the furthest that harmless models go by chance and of the smallest damage seen (its whole "
        "interval lies beyond that), or the former where none is seen. False-alarm rate of all limits together, for a "
        f"harmless candidate on one prompt set: {rate:g}, shared equally by {counted(tests, 'test')}, one for each "
        "metric and layer (Bonferroni)."
        f"{left_out if without else ''}"
    )


def circumstances(comparisons: Sequence[Comparison]) -> str:
    """Name model, prompts and library versions: the end of a sentence."""
    sources = [c.reference_provenance for c in comparisons]
    models = _listed(source.model for source in sources)
    sets = _listed(comparison.prompt_set for comparison in comparisons)
    libraries = _listed(f"{name} {version}" for source in sources for name, version in source.libraries.items())
    return f"model {models}, prompts {sets}; {libraries or 'library versions unknown'}."


def _sentences(derived: DerivedLimit) -> Iterator[str]:
    values = sorted(shift.value for shift in derived.harmless)
    controls = _listed(shift.control for shift in derived.harmless)
    least, most, bound = (_metric_text(derived, shift) for shift in (values[0], values[-1], derived.bound))
    yield f"Harmless: {least} to {most} ({controls}), by chance no further than {bound}."
    seen = [f"{_metric_text(derived, shift)} by {control}" for control, shift in derived.seen.items()]
    if seen:
        yield f"Smallest damage seen: {seen[0]}{'; larger: ' if seen[1:] else ''}{', '.join(seen[1:])}."
    else:
        yield "No damage is seen: the limit is where chance ends."
    if derived.unseen:
        unseen = (f"{_metric_text(derived, shift)} by {control}" for control, shift in derived.unseen.items())
        yield f"Not seen: {', '.join(unseen)}."
    if derived.unmeasured:
        yield f"Not measured, which fails: {', '.join(derived.unmeasured)}."


def _prompts(derived: DerivedLimit) -> str:
    counts = sorted({shift.prompts for shift in derived.harmless})
    return f"{' to '.join(f'{n:,}' for n in counts[:: max(len(counts) - 1, 1)])} prompts,"


def _without_limit(limits: Iterable[DerivedLimit]) -> Mapping[str, str]:
    by_metric = {derived.metric: derived for derived in limits}
    unmeasured = {metric: "not measured in any harmless model" for metric in METRICS if metric not in by_metric}
    useless = {
        name: "its limit would be too loose to fail" for name, derived in by_metric.items() if not derived.can_fail
    }
    return unmeasured | useless


def _metric_text(derived: DerivedLimit, shift: float) -> str:
    return f"{metric_value(derived.metric, shift):.3g}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))

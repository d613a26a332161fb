"""What a limit rests on, and what a calibration is, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.plurals import counted
from pytest_quantcheck.profiles.calibrating.limits import LimitBasis
from pytest_quantcheck.profiles.calibrating.shifts import as_read
from pytest_quantcheck.records import Comparison


def evidence(finding: LimitBasis, comparisons: Sequence[Comparison]) -> str:
    """What one limit rests on: harmless and damaged values, what it cannot see, prompts, model and versions."""
    return " ".join((*_sentences(finding), f"{_prompts(finding)} {circumstances(comparisons)}"))


def description(
    findings: Iterable[LimitBasis],
    harmless: Sequence[Comparison],
    damaged: Sequence[Comparison],
    tests: int,
    rate: float,
) -> str:
    """What the profile as a whole is, how its limits were set, and which metrics it has none for."""
    counts = f"{counted(len(harmless), 'harmless comparison')} and {counted(len(damaged), 'comparison')} with damage"
    without = _without_limit(findings)
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
    """Model, prompt sets and library versions of comparisons, as the end of a sentence."""
    sources = [c.reference_provenance for c in comparisons]
    models = _listed(source.model for source in sources)
    sets = _listed(comparison.prompt_set for comparison in comparisons)
    libraries = _listed(f"{name} {version}" for source in sources for name, version in source.libraries.items())
    return f"model {models}, prompts {sets}; {libraries or 'library versions unknown'}."


def _sentences(finding: LimitBasis) -> Iterator[str]:
    values = sorted(shift.value for shift in finding.harmless)
    controls = _listed(shift.control for shift in finding.harmless)
    least, most, bound = (_read(finding, shift) for shift in (values[0], values[-1], finding.bound))
    yield f"Harmless: {least} to {most} ({controls}), by chance no further than {bound}."
    seen = [f"{_read(finding, shift)} by {control}" for control, shift in finding.seen.items()]
    if seen:
        yield f"Smallest damage seen: {seen[0]}{'; larger: ' if seen[1:] else ''}{', '.join(seen[1:])}."
    else:
        yield "No damage is seen: the limit is where chance ends."
    if finding.unseen:
        yield f"Not seen: {', '.join(f'{_read(finding, shift)} by {name}' for name, shift in finding.unseen.items())}."
    if finding.unmeasured:
        yield f"Not measured, which fails: {', '.join(finding.unmeasured)}."


def _prompts(finding: LimitBasis) -> str:
    counts = sorted({shift.prompts for shift in finding.harmless})
    return f"{' to '.join(f'{n:,}' for n in counts[:: max(len(counts) - 1, 1)])} prompts,"


def _without_limit(findings: Iterable[LimitBasis]) -> Mapping[str, str]:
    found = {finding.metric: finding for finding in findings}
    unmeasured = {metric: "not measured in any harmless model" for metric in METRICS if metric not in found}
    useless = {name: "by chance it goes as far as it can" for name, one in found.items() if not one.can_fail}
    return unmeasured | useless


def _read(finding: LimitBasis, shift: float) -> str:
    return f"{as_read(finding.metric, shift):.3g}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))

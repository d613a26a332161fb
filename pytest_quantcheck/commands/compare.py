"""`compare`: a candidate's stored measurements judged by its reference's, without a model."""

import argparse
import importlib.metadata
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pytest_quantcheck.commands.options import COMPARE, read, spelled
from pytest_quantcheck.commands.output import FINE, OTHERWISE, say
from pytest_quantcheck.commands.stored import find_measurements
from pytest_quantcheck.comparing import compare, refuse_identical
from pytest_quantcheck.errors import ComparisonError, ProfileError
from pytest_quantcheck.judging import judge
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.metrics import judgeable
from pytest_quantcheck.options.candidate import Released, name_candidates
from pytest_quantcheck.profiles import Profile, load_profile
from pytest_quantcheck.records import REFERENCE, RELEASED, Comparison, Provenance, Verdict
from pytest_quantcheck.reporting import WIDEST, Report, nothing_judged, summary_lines
from pytest_quantcheck.reporting.publishing import publish
from pytest_quantcheck.reporting.publishing.directory import remove_report
from pytest_quantcheck.run.baselines import refuse_shard
from pytest_quantcheck.storage import load_measurement


def run(arguments: argparse.Namespace) -> int:
    """Compare two directories of measurements and print what a gate would.

    Returns the exit status: 0 where every verdict is acceptable.

    Raises:
        QuantcheckError: the two cannot be compared, or nothing in them can be judged.
    """
    given = read(arguments, COMPARE)
    if given["report"]:
        remove_report(Path(given["report"]))
    profile = load_profile(given["profile"]).with_limits(given["fail"], "--fail").allowing(given["allow_unmeasured"])
    with ignore_library_warnings():
        comparisons = list(_comparisons(Path(arguments.reference), Path(arguments.candidate), profile))
    verdicts = [verdict for comparison in comparisons for verdict in _verdicts(comparison, profile)]
    judged = {verdict.prompt_set for verdict in verdicts if verdict.status != "unmeasured"}
    for comparison in comparisons:
        if comparison.prompt_set not in judged:
            raise ProfileError(nothing_judged(comparison.candidate, comparison.prompt_set, profile.label))
    report = Report(
        schema=2,
        tool_version=importlib.metadata.version("pytest-quantcheck"),
        created=datetime.now(UTC),
        outcome="passed" if all(verdict.acceptable for verdict in verdicts) else "failed",
        model=comparisons[0].reference_provenance.model,
        profile=profile.label,
        settings={"reference": arguments.reference, "candidate": arguments.candidate, **given},
        verdicts=tuple(verdicts),
        comparisons=tuple(comparisons),
    )
    width = min(shutil.get_terminal_size().columns, WIDEST)
    say(spelled(line) for line, _ in summary_lines(report, width=width))
    say(publish(report, Path(given["report"]) if given["report"] else None, {}, spell=spelled))
    return FINE if report.outcome == "passed" else OTHERWISE


def _comparisons(reference: Path, candidate: Path, profile: Profile) -> Iterator[Comparison]:
    before, after = find_measurements(reference), find_measurements(candidate)
    if alone := sorted(before.keys() ^ after.keys()):
        places = ", ".join(f"{name} in {reference if name in before else candidate}" for name in alone)
        raise ComparisonError(f"expected the same prompt sets in both directories, found only in one: {places}")
    for name, directory in before.items():
        yield _comparison(directory, after[name], profile)


def _comparison(reference: Path, candidate: Path, profile: Profile) -> Comparison:
    before, after = load_measurement(reference), load_measurement(candidate)
    refuse_shard(reference, before.provenance)
    refuse_shard(candidate, after.provenance)
    if before.provenance.bits != REFERENCE:
        raise ComparisonError(
            f"{reference}: expected the reference's measurement, got one of {_candidate_name(before.provenance)}; REF "
            "comes first, then CAND"
        )
    return refuse_identical(compare(before, after, name=_candidate_name(after.provenance), profile=profile))


def _candidate_name(provenance: Provenance) -> str:
    """How a gate calls the candidate: by its bit-width, or by the last part of a released checkpoint's path."""
    if provenance.bits != RELEASED:
        return provenance.bits
    (name,) = name_candidates([Released(provenance.model, provenance.revision)])
    return name


def _verdicts(comparison: Comparison, profile: Profile) -> Iterator[Verdict]:
    provenance = comparison.reference_provenance
    attributed, scored = not provenance.attribution.startswith("off"), provenance.continuation > 0
    for metric in judgeable(profile.metrics, attributed=attributed, scored=scored):
        verdict = judge(comparison, metric, profile)
        if verdict is not None:
            yield verdict

"""Sentences on prompt sets: what each can show, and what the reference's answers to it cannot."""

from collections.abc import Iterator

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.plurals import counted
from pytest_quantcheck.records import Comparison
from pytest_quantcheck.reporting.report import Report


def evidence_sentences(report: Report) -> Iterator[str]:
    """Yield a sentence for each prompt set: what it and the reference's answers to it can show."""
    for name, found in {one.prompt_set: one.evidence for one in report.comparisons if one.evidence}.items():
        lacking = ", ".join(METRICS[metric].title for metric in found.lacking)
        yield (
            f"{name}: {counted(found.inputs, 'distinct input')} of {counted(found.prompts, 'prompt')}; the reference "
            f"is right on {found.accuracy:.1%}, with {counted(found.answers, 'distinct answer')}; "
            f"{counted(found.golds, 'distinct gold')}, {found.commonest!r:.40} is {found.share:.1%} of them"
            f"{lacking and f'; it cannot show {lacking}'}"
        )


def gap_sentences(report: Report) -> Iterator[str]:
    """Yield a sentence for each prompt set that cannot show a metric.

    It names the gated metrics, the reasons, and where to look; where the reference is never right, the others too.
    """
    for name, comparison in {one.prompt_set: one for one in report.comparisons}.items():
        gated = {one.metric for one in report.verdicts if one.prompt_set == name and one.status == "unmeasured"}
        found = comparison.evidence
        named = found.lacking if found else {}
        never_right = found is not None and found.accuracy == 0
        reasons = [f"{METRICS[one].title}: {why}" for one, why in named.items() if one in gated or never_right]
        if reasons:
            yield f"{name} cannot show {'; '.join(reasons)}. {_advice(comparison)}"


def _advice(comparison: Comparison) -> str:
    if comparison.evidence and comparison.evidence.accuracy == 1:
        return "Add prompts that the reference answers wrong"
    origin = comparison.reference_provenance
    return (
        f"Look at the template ({origin.template!r:.60}, --quantcheck-template), the readout ({origin.readout}, "
        "--quantcheck-readout) and the gold answers; or take prompts that this model can answer (--quantcheck-prompts)"
    )

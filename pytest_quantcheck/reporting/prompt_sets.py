"""Sentences on prompt sets: what each can show, and what the reference's answers to it cannot."""

from collections.abc import Iterator

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Comparison
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.text import counted


def evidence_sentences(report: Report) -> Iterator[str]:
    """Yield a sentence for each prompt set: what it and the reference's answers to it can show."""
    for name, evidence in {
        comparison.prompt_set: comparison.evidence for comparison in report.comparisons if comparison.evidence
    }.items():
        lacking = ", ".join(METRICS[metric].title for metric in evidence.lacking)
        yield (
            f"{name}: {counted(evidence.inputs, 'distinct input')} of {counted(evidence.prompts, 'prompt')}; the "
            f"reference is right on {evidence.accuracy:.1%}, with {counted(evidence.answers, 'distinct answer')}; "
            f"{counted(evidence.golds, 'distinct gold')}, {evidence.commonest!r:.40} is {evidence.share:.1%} of them"
            f"{lacking and f'; it cannot show {lacking}'}"
        )


def gap_sentences(report: Report) -> Iterator[str]:
    """Yield a sentence for each prompt set that cannot show a metric.

    It names the gated metrics, the reasons, and where to look; where the reference is never right, the others too.
    """
    for name, comparison in {comparison.prompt_set: comparison for comparison in report.comparisons}.items():
        gated = {
            verdict.metric
            for verdict in report.verdicts
            if verdict.prompt_set == name and verdict.status == "unmeasured"
        }
        evidence = comparison.evidence
        named = evidence.lacking if evidence else {}
        never_right = evidence is not None and evidence.accuracy == 0
        reasons = [f"{METRICS[metric].title}: {why}" for metric, why in named.items() if metric in gated or never_right]
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

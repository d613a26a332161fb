"""Rows of the tables: estimate and verdict of each metric, candidate and prompt set."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS, Metric
from pytest_quantcheck.records import Comparison, Estimate, Verdict
from pytest_quantcheck.reporting.outcomes import outcomes
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.reporting.wording import SMALLEST, interval_name, next_step, number, reason_to_accept
from pytest_quantcheck.text import counted, plural

_SIGNS = {"max": "<=", "min": ">="}


class TableRow(NamedTuple):
    """One metric with its verdict, if any, and its worst layer's estimate.

    A row `beside` it is another layer of the same metric, which has no verdict.
    """

    metric: Metric
    verdict: Verdict | None
    estimate: Estimate
    beside: bool = False

    @property
    def word(self) -> str:
        """The verdict's status, or why there is no verdict."""
        if self.verdict:
            return self.verdict.status
        if not self.estimate.applicable:
            return "n/a"
        if not self.beside:
            return "not gated"
        return "unmeasured" if self.estimate.value is None else ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of the row, in the columns of `headings`."""
        estimate, verdict = self.estimate, self.verdict
        layer = "" if estimate.layer is None else str(estimate.layer)
        interval = (
            "-" if estimate.low is None or estimate.high is None else f"{_cell(estimate.low)} to {_cell(estimate.high)}"
        )
        limit = f"{_SIGNS[verdict.direction]} {verdict.limit:.4g}" if verdict else "-"
        return (self.metric.title, layer, _cell(estimate.value), interval, limit, self.word)


class Group(NamedTuple):
    """Verdicts by metric and comparison of one candidate and prompt set.

    `comparison` is None where there are verdicts only.
    """

    candidate: str
    prompt_set: str
    verdicts: dict[str, Verdict]
    comparison: Comparison | None

    @property
    def n_prompts(self) -> int:
        """Prompts that both models answered."""
        if self.comparison:
            return self.comparison.n_prompts
        return max(verdict.estimate.n_prompts for verdict in self.verdicts.values())

    @property
    def title(self) -> str:
        """The candidate, the prompt set and its number of prompts."""
        return f"{self.candidate} on {self.prompt_set}: {counted(self.n_prompts, 'prompt')}"

    def estimates(self, metric: MetricName) -> tuple[Estimate, ...]:
        """Find the estimates of one metric; without a comparison the one that decided."""
        if self.comparison:
            return self.comparison.of(metric)
        return (self.verdicts[metric].estimate,) if metric in self.verdicts else ()

    def rows(self, *, layers: bool = False) -> Iterator[TableRow]:
        """Yield a row for each judged or estimated metric, as in `METRICS`.

        With `layers`, a row for each other layer follows.
        """
        for metric in METRICS.values():
            verdict, estimates = self.verdicts.get(metric.name), self.estimates(metric.name)
            if not (verdict or estimates):
                continue
            chosen = verdict.estimate if verdict else worst_estimate(estimates, metric)
            yield TableRow(metric, verdict, chosen)
            if layers:
                others = (estimate for estimate in estimates if estimate.layer != chosen.layer)
                yield from (TableRow(metric, None, estimate, beside=True) for estimate in others)

    def notes(self) -> Iterator[str]:
        """Yield sentences about the table, the comparison's own notes last."""
        rows = list(self.rows())
        yield from (_doubt(row.metric, row.verdict) for row in rows if row.verdict and _is_doubt(row.verdict))
        if ungated := [self._ungated(row.metric) for row in rows if row.word == "not gated"]:
            yield f"not gated, as this run has no verdict on it: {', '.join(ungated)}"
        own = self.comparison.notes if self.comparison else ()
        for row in rows:
            yield from _remarks(row.metric, self.estimates(row.metric.name), own)
        yield from own
        if self.comparison and self.comparison.conditions:
            yield f"not measured or served under the same conditions: {'; '.join(self.comparison.conditions)}"

    def _ungated(self, metric: Metric) -> str:
        """Name a metric, and the prompts needed to gate it."""
        profile = self.comparison.profile if self.comparison else None
        rules = [rule for rule in profile.rules if rule.limit.metric == metric.name] if profile else []
        wanted = max((rule.limit.from_prompts for rule in rules), default=1)
        return f"{metric.title} (from {wanted:,} prompts up)" if wanted > self.n_prompts else metric.title


def headings(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Name a table's columns."""
    names = {interval_name(row.estimate.confidence) for row in rows if row.estimate.low is not None}
    interval = names.pop() if len(names) == 1 else "interval"
    return ("metric", "layer", "value", interval, "limit", "verdict")


def groups(report: Report) -> Iterator[Group]:
    """Yield a group for each comparison, in the order of the outcomes.

    Those without a comparison come last.
    """
    places = {outcome.candidate: place for place, outcome in enumerate(outcomes(report))}
    comparisons = sorted(report.comparisons, key=lambda comparison: places.get(comparison.candidate, len(places)))
    compared = {(comparison.candidate, comparison.prompt_set): comparison for comparison in comparisons}
    judged: dict[tuple[str, str], dict[str, Verdict]] = {key: {} for key in compared}
    for verdict in report.verdicts:
        judged.setdefault((verdict.candidate, verdict.prompt_set), {})[verdict.metric] = verdict
    for key, own in judged.items():
        yield Group(*key, own, compared.get(key))


def _cell(value: float | None) -> str:
    """Write a number with four decimals, so that columns align."""
    if value is None:
        return "-"
    if 0 < value < SMALLEST:
        return number(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def worst_estimate(estimates: Sequence[Estimate], metric: Metric) -> Estimate:
    """Find the worst estimate, or the first if none has a value."""
    measured = [estimate for estimate in estimates if estimate.applicable and estimate.value is not None]
    worst = max if metric.direction == "max" else min
    return worst(measured, key=lambda estimate: estimate.value or 0.0) if measured else estimates[0]


def _is_doubt(verdict: Verdict) -> bool:
    """Tell whether a note says what to do; for other verdicts the outcome says it."""
    return verdict.warning and verdict.status == "inconclusive"


def _doubt(metric: Metric, verdict: Verdict) -> str:
    return f"{metric.title}: the limit lies inside the interval, {reason_to_accept(verdict)}; {next_step(verdict)}"


def _remarks(metric: Metric, estimates: Sequence[Estimate], notes: Sequence[str]) -> Iterator[str]:
    """Yield the reasons of estimates, unless a note has them."""
    layers: dict[tuple[str, str], list[int | None]] = {}
    for estimate in estimates:
        if estimate.value is None or estimate.reason:
            layers.setdefault((_state(estimate), estimate.reason), []).append(estimate.layer)
    for (state, reason), numbers in layers.items():
        if not reason or not any(reason in note for note in notes):
            where = " ".join(filter(None, (_places(numbers), state)))
            yield ": ".join(filter(None, (metric.title, where, reason)))


def _state(estimate: Estimate) -> str:
    if not estimate.applicable:
        return "not applicable"
    return "unmeasured" if estimate.value is None else ""


def _places(layers: Sequence[int | None]) -> str:
    numbers = [str(layer) for layer in layers if layer is not None]
    return f"{plural(len(numbers), 'layer')} {', '.join(numbers)}" if numbers else ""

"""Estimates and verdicts put together: one row per metric of each candidate on each prompt set."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_quantcheck.metrics import METRICS, Metric
from pytest_quantcheck.plurals import counted, plural
from pytest_quantcheck.records import Comparison, Estimate, Verdict
from pytest_quantcheck.reporting.wording import SMALLEST, concession, interval_name, next_step, number

_SIGNS = {"max": "<=", "min": ">="}


class Row(NamedTuple):
    """One metric: its verdict if there is one, and the estimate that stands for it, that of the worst layer.

    Or, `beside` such a row, another layer, which has no verdict of its own.
    """

    metric: Metric
    verdict: Verdict | None
    estimate: Estimate
    beside: bool = False

    @property
    def word(self) -> str:
        """The verdict, or why there is none."""
        if self.verdict:
            return self.verdict.status
        if not self.estimate.applicable:
            return "n/a"
        if self.beside and self.estimate.value is not None:
            return ""
        return "unmeasured" if self.estimate.value is None else "not gated"

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table says of it, column by column as in `headings`."""
        found, verdict = self.estimate, self.verdict
        layer = "" if found.layer is None else str(found.layer)
        interval = "-" if found.low is None or found.high is None else f"{_cell(found.low)} to {_cell(found.high)}"
        limit = f"{_SIGNS[verdict.direction]} {verdict.limit:.4g}" if verdict else "-"
        return (self.metric.title, layer, _cell(found.value), interval, limit, self.word)


class Group(NamedTuple):
    """All that is known of one candidate on one prompt set; `verdicts` by metric, perhaps no comparison."""

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
        """Which candidate, on which prompts."""
        return f"{self.candidate} on {self.prompt_set}: {counted(self.n_prompts, 'prompt')}"

    def estimates(self, metric: str) -> tuple[Estimate, ...]:
        """The estimates of one metric; without a comparison the one that decided."""
        if self.comparison:
            return self.comparison.of(metric)
        return (self.verdicts[metric].estimate,) if metric in self.verdicts else ()

    def rows(self, *, layers: bool = False) -> Iterator[Row]:
        """Yield a row for each metric that was judged or estimated, in the order of `METRICS`.

        With `layers` the other layers follow, each in a row of its own.
        """
        for metric in METRICS.values():
            verdict, estimates = self.verdicts.get(metric.name), self.estimates(metric.name)
            if not (verdict or estimates):
                continue
            chosen = verdict.estimate if verdict else _worst(estimates, metric)
            yield Row(metric, verdict, chosen)
            if layers:
                yield from (Row(metric, None, one, beside=True) for one in estimates if one.layer != chosen.layer)

    def notes(self) -> Iterator[str]:
        """Yield what a table has no room for, one sentence each, the comparison's own notes last."""
        rows = list(self.rows())
        yield from (_doubt(row.metric, row.verdict) for row in rows if row.verdict and _is_doubt(row.verdict))
        if ungated := [self._ungated(row.metric) for row in rows if row.word == "not gated"]:
            yield f"not gated, as this run has no verdict on it: {', '.join(ungated)}"
        own = self.comparison.notes if self.comparison else ()
        for row in rows:
            yield from _remarks(row.metric, self.estimates(row.metric.name), own)
        yield from own
        if self.comparison and self.comparison.conditions:
            yield f"not measured under the same conditions: {'; '.join(self.comparison.conditions)}"

    def _ungated(self, metric: Metric) -> str:
        """The metric's title, with the number of prompts from which the profile would gate by it."""
        profile = self.comparison.profile if self.comparison else None
        rules = [rule for rule in profile.rules if rule.limit.metric == metric.name] if profile else []
        wanted = max((rule.limit.from_prompts for rule in rules), default=1)
        return f"{metric.title} (from {wanted:,} prompts up)" if wanted > self.n_prompts else metric.title


def headings(rows: Sequence[Row]) -> tuple[str, ...]:
    """The heads of a table's columns."""
    names = {interval_name(row.estimate.confidence) for row in rows if row.estimate.low is not None}
    interval = names.pop() if len(names) == 1 else "interval"
    return ("metric", "layer", "value", interval, "limit", "verdict")


def groups(verdicts: Sequence[Verdict], comparisons: Sequence[Comparison]) -> Iterator[Group]:
    """Yield candidates and prompt sets in the order of the comparisons, then those that only have verdicts."""
    compared = {(comparison.candidate, comparison.prompt_set): comparison for comparison in comparisons}
    judged: dict[tuple[str, str], dict[str, Verdict]] = {key: {} for key in compared}
    for verdict in verdicts:
        judged.setdefault((verdict.candidate, verdict.prompt_set), {})[verdict.metric] = verdict
    for key, own in judged.items():
        yield Group(*key, own, compared.get(key))


def _cell(value: float | None) -> str:
    """A number with four decimals, so that columns align; the message of a verdict has more digits."""
    if value is None:
        return "-"
    if 0 < value < SMALLEST:
        return number(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _worst(estimates: Sequence[Estimate], metric: Metric) -> Estimate:
    measured = [estimate for estimate in estimates if estimate.applicable and estimate.value is not None]
    worst = max if metric.direction == "max" else min
    return worst(measured, key=lambda estimate: estimate.value or 0.0) if measured else estimates[0]


def _is_doubt(verdict: Verdict) -> bool:
    """Of one that does not pass the outcome says what to do."""
    return verdict.warning and verdict.status == "inconclusive"


def _doubt(metric: Metric, verdict: Verdict) -> str:
    return f"{metric.title}: the limit lies inside the interval, {concession(verdict)}; {next_step(verdict)}"


def _remarks(metric: Metric, estimates: Sequence[Estimate], said: Sequence[str]) -> Iterator[str]:
    """Yield what estimates say of themselves, layers with the same reason together, unless a note has said it."""
    layers: dict[tuple[str, str], list[int | None]] = {}
    for estimate in estimates:
        if estimate.value is None or estimate.reason:
            layers.setdefault((_state(estimate), estimate.reason), []).append(estimate.layer)
    for (state, reason), found in layers.items():
        if not reason or not any(reason in note for note in said):
            where = " ".join(filter(None, (_places(found), state)))
            yield ": ".join(filter(None, (metric.title, where, reason)))


def _state(estimate: Estimate) -> str:
    if not estimate.applicable:
        return "not applicable"
    return "unmeasured" if estimate.value is None else ""


def _places(layers: Sequence[int | None]) -> str:
    numbers = [str(layer) for layer in layers if layer is not None]
    return f"{plural(len(numbers), 'layer')} {', '.join(numbers)}" if numbers else ""

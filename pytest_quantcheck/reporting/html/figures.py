"""The figures of the page: each with its text alternative and its numbers as a table.

To add a figure of a candidate, write a function that yields it and name the function in `_FIGURES`. The figures of a
metric follow from its row in `METRICS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS, Metric, ModelsFigure
from pytest_quantcheck.records import Comparison, Convergence, Estimate, PlaceDivergence, Verdict
from pytest_quantcheck.reporting.html import drawing
from pytest_quantcheck.reporting.html.drawing import CANDIDATE, REFERENCE, Series
from pytest_quantcheck.reporting.rows import Group, worst_estimate
from pytest_quantcheck.reporting.wording import number

DRAWN = 4
"""Layers whose pair counts are drawn one by one; where there are more, a table has all."""

_BINS = [f"{low / 10:.1f}-{(low + 1) / 10:.1f}" for low in range(10)]
_MODELS = (("reference", REFERENCE), ("candidate", CANDIDATE))

Verdicts = Mapping[str, Verdict]
"""Verdicts on one candidate, by metric."""


class Figure(NamedTuple):
    """A drawing, its description in words, and its numbers as a table."""

    title: str
    note: str
    summary: str
    svg: Markup
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def paper_figures(groups: Sequence[Group], name: str) -> Iterator[Figure]:
    """Yield the paper's Figures 1 to 3: the reference and all candidates on one prompt set."""
    for metric in METRICS.values():
        pairs = {group.candidate: _sides(group, metric.name) for group in groups}
        sides = {candidate: pair for candidate, pair in pairs.items() if pair}
        if sides and isinstance(metric.figure, ModelsFigure) and not metric.layered:
            values = {"reference": next(iter(sides.values()))[0], **{c: pair[1] for c, pair in sides.items()}}
            yield _bars(metric.figure, values, f"{name}-{metric.name}")


def group_figures(group: Group, name: str) -> Iterator[Figure]:
    """Yield the figures of one candidate on one prompt set."""
    if group.comparison:
        for figures in _FIGURES:
            yield from figures(group.comparison, group.verdicts, name)


def _sides(group: Group, metric: MetricName) -> tuple[float, float] | None:
    for estimate in group.estimates(metric):
        if estimate.reference is not None and estimate.candidate is not None:
            return estimate.reference, estimate.candidate
    return None


def _bars(figure: ModelsFigure, values: Mapping[str, float], name: str) -> Figure:
    title = figure.title
    return Figure(
        title,
        figure.note,
        f"{title}: " + ", ".join(f"{model} {number(value)}" for model, value in values.items()),
        Markup(drawing.bars(name, list(values), list(values.values()))),  # noqa: S704 - escaped
        ("model", title.lower()),
        tuple((model, number(value)) for model, value in values.items()),
    )


def _reliability(comparison: Comparison, _: Verdicts, name: str) -> Iterator[Figure]:
    if not comparison.reliability:
        return
    bins = {model: comparison.reliability[model] for model, _ in _MODELS}
    series = [
        Series(model, colour, [point.confidence for point in bins[model]], [point.accuracy for point in bins[model]])
        for model, colour in _MODELS
    ]
    gaps = {
        model: max((point.confidence - point.accuracy for point in own), key=abs, default=0.0)
        for model, own in bins.items()
    }
    worst = ", ".join(f"{model} {'over' if gap > 0 else 'under'} by {number(abs(gap))}" for model, gap in gaps.items())
    pairs = [(point.confidence, point.accuracy) for point in bins["candidate"]]
    rows = [
        (str(place), f"{before.count:,}", *map(number, (before.confidence, before.accuracy, *after)))
        for place, (before, after) in enumerate(zip(bins["reference"], pairs, strict=True), 1)
    ]
    yield Figure(
        "Reliability",
        "accuracy over confidence in ten bins of equal count; below the dotted line a model is overconfident",
        f"Reliability diagram of both models. Largest gap between confidence and accuracy in a bin: {worst}",
        Markup(drawing.reliability_diagram(f"{name}-reliability", series)),  # noqa: S704 - matplotlib escapes its labels
        ("bin", "prompts", *(f"{model} {side}" for model, _ in _MODELS for side in ("confidence", "accuracy"))),
        tuple(rows),
    )


def _metrics(comparison: Comparison, verdicts: Verdicts, name: str) -> Iterator[Figure]:
    """Yield the figures over the layers of each metric's row."""
    for metric in METRICS.values():
        estimates, place = comparison.of(metric.name), f"{name}-{metric.name}"
        if metric.figure == "change" and any(estimate.value is not None for estimate in estimates):
            yield _change(metric, estimates, verdicts.get(metric.name), place)
        elif isinstance(metric.figure, ModelsFigure) and any(
            estimate.layer is not None and estimate.reference is not None for estimate in estimates
        ):
            yield _both_models(metric.figure, estimates, place)


def _both_models(figure: ModelsFigure, estimates: Sequence[Estimate], name: str) -> Figure:
    x = [estimate.layer or 0 for estimate in estimates]
    series = [
        Series(model, colour, x, [getattr(estimate, model) for estimate in estimates]) for model, colour in _MODELS
    ]
    most = max(estimates, key=lambda estimate: abs((estimate.candidate or 0.0) - (estimate.reference or 0.0)))
    return Figure(
        figure.title,
        figure.note,
        f"{figure.title} over {len(x)} layers, of both models. "
        f"Furthest apart at layer {most.layer}: {_cell(most.reference)} and {_cell(most.candidate)}",
        Markup(drawing.layers(name, series, quantity=figure.axis)),  # noqa: S704 - no text from outside
        ("layer", "reference", "candidate"),
        tuple((str(estimate.layer), _cell(estimate.reference), _cell(estimate.candidate)) for estimate in estimates),
    )


def _change(metric: Metric, estimates: Sequence[Estimate], verdict: Verdict | None, name: str) -> Figure:
    title = metric.title.capitalize()
    columns: list[list[float | None]] = [
        [getattr(estimate, end) for estimate in estimates] for end in ("value", "low", "high")
    ]
    x = [estimate.layer or 0 for estimate in estimates]
    series = Series("value and interval", CANDIDATE, x, *columns)
    limit = verdict.limit if verdict else None
    remarks = (
        [(estimate.reason,) for estimate in estimates]
        if any(estimate.reason for estimate in estimates)
        else [()] * len(x)
    )
    worst = worst_estimate(estimates, metric)
    return Figure(
        title,
        metric.meaning,
        f"{title} over {len(estimates)} layers, with intervals. Worst at layer {worst.layer}: {_cell(worst.value)}"
        + (f", limit {number(limit)}" if limit is not None else ", no limit"),
        Markup(drawing.layers(name, [series], quantity=metric.title, limit=limit)),  # noqa: S704 - none from outside
        ("layer", "value", "low", "high", *(["remark"] if remarks[0] else [])),
        tuple(
            (str(layer), *map(_cell, row), *remark) for layer, *row, remark in zip(x, *columns, remarks, strict=True)
        ),
    )


def _places(comparison: Comparison, _: Verdicts, name: str) -> Iterator[Figure]:
    """Yield token KL along what the reference wrote."""
    if comparison.token_divergence is None:
        return
    places = comparison.token_divergence.places
    x = [(place.first + place.last) / 2 for place in places]
    series = Series("mean", CANDIDATE, x, [place.mean for place in places])
    most = max(places, key=lambda place: place.mean)
    yield Figure(
        "Token KL by place",
        "in nats, from the first token that the reference wrote to the last",
        f"Mean token KL over {len(places)} places. Largest at {_place(most)}: {number(most.mean)}",
        Markup(drawing.layers(f"{name}-places", [series], quantity="token KL", along="token")),  # noqa: S704 - none outside
        ("place", "tokens", "mean", "95th percentile"),
        tuple((_place(place), f"{place.count:,}", number(place.mean), number(place.p95)) for place in places),
    )


def _place(place: PlaceDivergence) -> str:
    return str(place.first) if place.first == place.last else f"{place.first} to {place.last}"


def _convergence_figure(comparison: Comparison, _: Verdicts, name: str) -> Iterator[Figure]:
    convergence, x = comparison.convergence, sorted(comparison.convergence)
    if not convergence:
        return
    series = [
        Series(model, colour, x, [_converged_share(convergence[layer].get(model)) for layer in x])
        for model, colour in _MODELS
        if any(model in convergence[layer] for layer in x)
    ]
    rows = [
        (str(layer), model, *_tried(own))
        for layer in x
        for model, _ in _MODELS
        if (own := convergence[layer].get(model))
    ]
    without = [
        str(layer)
        for layer in x
        if not convergence[layer].get("reference") or not convergence[layer]["reference"].converged
    ]
    yield Figure(
        "Convergence of the attributions",
        "share of prompts whose attribution adds up; where the reference's do not, the overlap is not defined",
        f"Share of attributions that converged over {len(x)} layers. "
        + (f"None of the reference's at layers {', '.join(without)}" if without else "Some at every layer"),
        Markup(drawing.layers(f"{name}-convergence", series, quantity="share of prompts")),  # noqa: S704 - none outside
        ("layer", "model", "prompts", "converged", "median nodes", "median error"),
        tuple(rows),
    )


def _tried(own: Convergence) -> tuple[str, ...]:
    return f"{own.attributed:,}", f"{own.converged:,}", _cell(own.median_nodes), _cell(own.median_error)


def _converged_share(own: Convergence | None) -> float | None:
    return own.converged / own.attributed if own and own.attributed else None


def _pair_counts(comparison: Comparison, _: Verdicts, name: str) -> Iterator[Figure]:
    """Yield the paper's Figure 4: the first, middle and last layer, and the one that moved most."""
    for layer in _chosen(comparison):
        counts = comparison.histograms[layer]
        series = [Series(model, colour, (), counts[model]) for model, colour in _MODELS]
        strong = {model: sum(counts[model][8:]) for model, _ in _MODELS}
        yield Figure(
            f"Pairs by correlation, layer {layer}",
            "neuron pairs by absolute correlation, logarithmic (as the paper's Figure 4)",
            f"Pairs of neurons of layer {layer} in ten bins of their absolute correlation. At 0.8 or above: "
            + ", ".join(f"{model} {count:,}" for model, count in strong.items()),
            Markup(drawing.histogram(f"{name}-pairs{layer}", series)),  # noqa: S704 - no text from outside
            ("|r|", "reference", "candidate", "change"),
            tuple(map(_pair_row, _BINS, counts["reference"], counts["candidate"])),
        )


def _strong_pairs(comparison: Comparison, _: Verdicts, name: str) -> Iterator[Figure]:
    """Yield strongly correlated pairs over the layers, if not all are drawn."""
    x = sorted(comparison.histograms)
    if len(x) <= DRAWN:
        return
    series = [
        Series(model, colour, x, [_strong(comparison.histograms[layer][model]) for layer in x])
        for model, colour in _MODELS
    ]
    rows = [
        (str(layer), model, *(f"{count:,}" for count in comparison.histograms[layer][model]))
        for layer in x
        for model, _ in _MODELS
    ]
    yield Figure(
        "Strongly correlated pairs",
        "share of neuron pairs with |r| of 0.8 or above; the numbers are the pair counts of all layers",
        f"Share of neuron pairs with an absolute correlation of 0.8 or above over {len(x)} layers, of both models",
        Markup(drawing.layers(f"{name}-strong", series, quantity="share of pairs")),  # noqa: S704 - none from outside
        ("layer", "model", *_BINS),
        tuple(rows),
    )


def _strong(counts: Sequence[int]) -> float:
    return sum(counts[8:]) / (sum(counts) or 1)


def _pair_row(name: str, before: int, after: int) -> tuple[str, ...]:
    return name, f"{before:,}", f"{after:,}", f"{after - before:+,}"


def _chosen(comparison: Comparison) -> list[int]:
    layers = sorted(comparison.histograms)
    if len(layers) <= DRAWN:
        return layers
    correlated = [metric for metric in METRICS.values() if "correlations" in metric.needs]
    moved = {
        estimate.layer: estimate.value
        for metric in correlated
        for estimate in comparison.of(metric.name)
        if estimate.value is not None
    }
    most = max(moved, key=lambda layer: moved[layer]) if moved else layers[0]
    return sorted({layers[0], layers[(len(layers) - 1) // 2], layers[-1], most or 0})


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)


_FIGURES: tuple[Callable[[Comparison, Verdicts, str], Iterator[Figure]], ...] = (
    _reliability,
    _places,
    _metrics,
    _convergence_figure,
    _strong_pairs,
    _pair_counts,
)
"""The figures of a candidate in the order of the page."""

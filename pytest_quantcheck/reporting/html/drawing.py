"""Drawings of numbers as SVG, with the page's colours and font."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullLocator

from pytest_quantcheck.errors import printable
from pytest_quantcheck.reporting.wording import number

INK, FAINT, REFERENCE, CANDIDATE, LIMIT = "#000001", "#000002", "#000003", "#000004", "#000005"
"""Placeholders for the page's colours, which differ between light and dark."""

_VARIABLES = {INK: "ink", FAINT: "line", REFERENCE: "reference", CANDIDATE: "candidate", LIMIT: "bad"}
_STYLES = {REFERENCE: ("o", "-"), CANDIDATE: ("s", "--")}
_SIZE = (4.4, 2.9)
_LONGEST_LABEL = 22

_SETTINGS = {
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.markersize": 4,
    "lines.linewidth": 1.4,
}


_REWRITES = (
    (re.compile(r"<metadata>.*?</metadata>", re.DOTALL), ""),
    (re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL), ""),  # it would apply to the whole page
    (re.compile(r'\bid="'), 'id="{name}-'),
    (re.compile(r'\bxlink:href="#'), 'href="#{name}-'),
    (re.compile(r"url\(#"), "url(#{name}-"),
    (re.compile(r"; font-family: [^;\"]*"), ""),  # the page sets the font
    (re.compile(r"font: ([\d.]+px) [^;\"]*"), r"font-size: \1"),
    (re.compile(r"\n\s*"), "\n"),
)
"""Patterns that only a separate SVG file may contain, and their replacements in a page."""


class Series(NamedTuple):
    """Numbers of one model, or of a change; None is a gap, `low` and `high` are interval ends."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def bars(name: str, labels: Sequence[str], values: Sequence[float]) -> str:
    """Draw horizontal bars from 0 with their numbers; the first is the reference's."""
    with _drawn(name, height=0.5 + 0.34 * len(labels)) as (axes, svg):
        places = range(len(labels))
        colours = [REFERENCE, *[CANDIDATE] * (len(labels) - 1)]
        axes.barh(places, values, color=colours, height=0.62)
        for place, value in zip(places, values, strict=True):
            axes.annotate(number(value), (value, place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [_short_label(label) for label in labels])
        axes.invert_yaxis()
        axes.set_xlim(0, max([*values, 1e-9]) * 1.22)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="y", length=0)
    return svg[0]


def reliability_diagram(name: str, series: Sequence[Series]) -> str:
    """Draw accuracy over confidence of both models, with the line of equality."""
    with _drawn(name, height=3.6) as (axes, svg):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="as sure as right")
        for curve in series:
            _plot(axes, curve)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="mean confidence of a bin", ylabel="accuracy of the bin")
        axes.grid(visible=True)
        _legend(axes)
    return svg[0]


def layers(
    name: str, series: Sequence[Series], *, quantity: str, limit: float | None = None, along: str = "layer"
) -> str:
    """Draw a quantity over the layers or `along` something else."""
    with _drawn(name) as (axes, svg):
        if limit is not None:
            axes.axhline(limit, color=LIMIT, linewidth=1.2, linestyle="-.", label="limit")
        for curve in series:
            _plot(axes, curve)
        axes.set(xlabel=along, ylabel=quantity)
        axes.set_ylim(*_range(series, limit))
        axes.set_xlim(*_around([layer for curve in series for layer in curve.x]))
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axes.grid(visible=True, axis="y")
        _legend(axes)
    return svg[0]


def histogram(name: str, series: Sequence[Series]) -> str:
    """Draw counts in ten bins of abs(r) from 0 to 1; the axis is symmetric-logarithmic."""
    edges = [edge / 10 for edge in range(11)]
    with _drawn(name) as (axes, svg):
        for curve in series:
            counts = [value or 0 for value in curve.y]
            axes.stairs(
                counts, edges, color=curve.colour, label=curve.name, linestyle=_STYLES[curve.colour][1], linewidth=1.4
            )
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda count, _: _short(count))
        axes.set(xlim=(0, 1), xlabel="|r| of a pair of neurons", ylabel="pairs", ylim=(0, None))
        axes.set_xticks(edges[::2])
        axes.grid(visible=True, axis="y")
        _legend(axes)
    return svg[0]


def _plot(axes: Axes, series: Series) -> None:
    marker, style = _STYLES[series.colour]
    if series.low:
        axes.vlines(
            *_without_gaps(series.x, series.low, series.high), color=series.colour, linewidth=1.4, clip_on=False
        )
    points = _without_gaps(series.x, series.y)
    axes.plot(*points, color=series.colour, marker=marker, linestyle=style, label=series.name, clip_on=False)


def _without_gaps(*columns: Sequence[float | None]) -> list[list[float]]:
    """Leave out the rows in which a number is missing."""
    rows = [[number for number in row if number is not None] for row in zip(*columns, strict=True)]
    complete = [row for row in rows if len(row) == len(columns)]
    return [[row[place] for row in complete] for place in range(len(columns))]


def _range(series: Sequence[Series], limit: float | None) -> tuple[float, float]:
    """Limit the axis to 0 and a little above the largest number."""
    drawn = [value for curve in series for value in (*curve.y, *curve.high) if value is not None]
    return 0.0, (max([*drawn, limit or 0.0]) or 0.01) * 1.12


def _around(layers: Sequence[float]) -> tuple[float, float]:
    """Limit the layer axis, with a margin; layers without a value count."""
    margin = 0.04 * (max(layers) - min(layers)) or 0.5
    return min(layers) - margin, max(layers) + margin


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9, handlelength=3)


def _short(count: float) -> str:
    """Shorten a power of ten for an axis, such as `10k`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"


def _short_label(text: str) -> str:
    shown = printable(text)
    if len(shown) <= _LONGEST_LABEL:
        return shown
    return f"{shown[: _LONGEST_LABEL // 2]}…{shown[-_LONGEST_LABEL // 2 + 1 :]}"


@contextmanager
def _drawn(name: str, *, height: float = _SIZE[1]) -> Iterator[tuple[Axes, list[str]]]:
    """Yield axes and a list that holds the SVG afterwards; ignores the user's settings."""
    svg: list[str] = []
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.filterwarnings("ignore", "Glyph ")  # the page uses another font
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS | {"svg.hashsalt": name})
        canvas = Canvas(figsize=(_SIZE[0], height), layout="constrained")
        yield canvas.add_subplot(), svg
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg.append(_inlined(file.getvalue(), name))


def _inlined(text: str, name: str) -> str:
    """Fit an SVG element into a page: no own size and colours, unique ids."""
    head, _, body = text[text.index("<svg") :].partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    for pattern, replacement in _REWRITES:
        body = pattern.sub(replacement.format(name=name), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return f'<svg {box[0] if box else ""} aria-hidden="true" focusable="false">{body.strip()}'

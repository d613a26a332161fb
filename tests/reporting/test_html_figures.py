"""Drawings: to scale, complete, the same everywhere, and with numbers that say what they show."""

import re

import matplotlib as mpl
import pytest

from pytest_quantcheck.reporting.html import drawing
from pytest_quantcheck.reporting.html.drawing import CANDIDATE, REFERENCE, Series
from pytest_quantcheck.reporting.html.figures import DRAWN, group_figures, paper_figures
from pytest_quantcheck.reporting.html.scales import MARGIN, WIDTH, scale_of
from pytest_quantcheck.reporting.rows import Group
from tests.reporting.runs import damaged, drawn, written


@pytest.fixture
def figures(make):
    """The figures of the damaged run, by title."""
    verdicts, comparison = damaged(make)
    group = Group("nf4", "boolq", {verdict.metric: verdict for verdict in verdicts}, comparison)
    return {figure.title: figure for figure in group_figures(group, "s1")}


def test_scale_is_linear_from_zero(make):
    """Twice the number is twice as far from 0, for value, interval and limit alike."""
    found = make.estimate(value=0.1, low=0.05, high=0.2)
    scale = scale_of(found, make.verdict(found, limit=0.15))
    assert scale.zero == MARGIN
    unit = scale.value - scale.zero
    assert [scale.low - scale.zero, scale.high - scale.zero, scale.limit - scale.zero] == pytest.approx(
        [unit / 2, unit * 2, unit * 1.5], abs=0.02
    )
    assert scale.high < WIDTH - MARGIN


def test_scale_shades_the_side_that_fails(make):
    """Above the limit where the limit is a maximum, below it where it is a minimum."""
    above, below = make.estimate(), make.estimate("salient_overlap", 0.4, 0.3, 0.5)
    most, least = scale_of(above, make.verdict(above)), scale_of(below, make.verdict(below))
    assert most.bad == (most.limit, pytest.approx(WIDTH - most.limit, abs=0.01))
    assert least.bad == (0.0, least.limit)


def test_scale_has_room_for_negative_numbers(make):
    """Where accuracy rose, the value stands left of 0, inside the drawing."""
    found = make.estimate("accuracy_drop", -0.12, -0.16, -0.08)
    scale = scale_of(found, make.verdict(found))
    assert MARGIN == scale.low < scale.value < scale.high < scale.zero < scale.limit < WIDTH


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e9])
def test_scale_of_any_number_fits(value, make):
    """Zero, next to nothing and very much."""
    scale = scale_of(make.estimate(value=value, low=value, high=value), None)
    assert MARGIN <= scale.low <= scale.value <= scale.high <= WIDTH - MARGIN


def test_nothing_measured_has_no_scale(make):
    """No value, no drawing: it would show a 0 that nobody measured."""
    assert scale_of(make.unmeasured("ace_drift", "too few prompts"), None) is None


def test_numbers_are_those_of_the_records(figures):
    """The table of a layered metric has every layer, a gap where there is no value, and the reason."""
    overlap = figures["Salient-neuron overlap"]
    assert overlap.head == ("layer", "value", "low", "high", "remark")
    assert overlap.rows[0] == ("0", "-", "-", "-", "the reference's attribution does not converge there")
    assert overlap.rows[1] == ("14", "0.5211", "0.4402", "0.6013", "")
    assert figures["Redundancy change"].head == ("layer", "value", "low", "high")
    assert figures["Convergence of the attributions"].rows[1] == ("0", "candidate", "64", "59", "16.00", "-")
    assert figures["Convergence of the attributions"].rows[0][:2] == ("0", "reference")
    assert figures["Dead neurons"].rows[0] == ("0", "0.1000", "0.1200")


def test_summary_says_what_is_to_be_seen(figures):
    """The text alternative names the worst layer and the limit, not only the axes."""
    assert figures["Redundancy change"].summary == (
        "Redundancy change over 3 layers, with intervals. Worst at layer 14: 0.0653, limit 0.0200"
    )
    assert figures["Salient-neuron overlap"].summary.endswith("Worst at layer 14: 0.5211, limit 0.5000")


def test_token_divergence_is_drawn_by_place(make):
    """Every place in the table; the largest mean in the text alternative; nothing where no tokens were scored."""
    _, comparison = damaged(make)
    group = Group("nf4", "boolq", {}, make.replace(comparison, token_divergence=written()))
    figure = {one.title: one for one in group_figures(group, "s1")}["Token KL by place"]
    assert figure.rows[1] == ("2", "256", "0.0200", "0.0500")
    assert len(figure.rows) == 16
    assert figure.summary.endswith("Largest at 16: 0.1600")
    assert "token KL" in figure.svg
    without = group_figures(Group("nf4", "boolq", {}, comparison), "s1")
    assert "Token KL by place" not in {one.title for one in without}


def test_all_layers_are_counted_where_few_are_drawn(make):
    """Of 32 layers the first, the middle, the last and the one that moved most are drawn; the numbers have all."""
    layers = tuple(range(32))
    moved = [make.estimate("redundancy_change", 0.09 if layer == 20 else 0.01, 0, 0.1, layer=layer) for layer in layers]
    comparison = drawn(make, make.comparison(*moved), layers)
    found = {one.title: one for one in group_figures(Group("nf4", "boolq", {}, comparison), "s1")}
    pairs = [title for title in found if title.startswith("Pairs")]
    assert pairs == [f"Pairs by correlation, layer {layer}" for layer in (0, 15, 20, 31)]
    assert len(pairs) == DRAWN
    assert len(found["Strongly correlated pairs"].rows) == 2 * 32
    assert found["Strongly correlated pairs"].rows[0] == ("0", "reference", *(f"{10**n:,}" for n in range(9, -1, -1)))


def test_paper_figures_leave_out_what_was_not_measured(make):
    """With fewer prompts than bins there is no ACE, and no figure of it."""
    found = [make.estimate("accuracy_drop", reference=0.5, candidate=0.4), make.unmeasured("ace_drift", "too few")]
    groups = [Group("nf4", "boolq", {}, make.comparison(*found))]
    assert [figure.title for figure in paper_figures(groups, "p1")] == ["Accuracy"]


def test_group_without_a_comparison_has_no_figures(make):
    """Verdicts alone can be listed, not drawn."""
    assert not list(group_figures(Group("nf4", "boolq", {"ace_drift": make.verdict()}, None), "s1"))


def draw():
    """A drawing of everything that one can have: gaps, intervals, a limit, two models."""
    x = (0, 1, 2)
    change = Series("change", CANDIDATE, x, (0.1, None, 0.3), (0.0, None, 0.2), (0.2, None, 0.4))
    return drawing.layers("name", [Series("reference", REFERENCE, x, (0.1, 0.2, 0.3)), change], quantity="q", limit=0.2)


def test_drawing_is_the_same_whatever_the_users_settings():
    """The user's matplotlib settings change nothing, and are what they were afterwards."""
    expected = draw()
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path", "axes.grid": True}):
        assert draw() == expected
        assert mpl.rcParams["font.size"] == 30


def test_drawing_takes_its_colours_and_font_from_the_page():
    """Colours are the page's variables, text is in the page's font, and ids begin with the drawing's name."""
    svg = draw()
    assert set(re.findall(r"var\(--(\w+)\)", svg)) == {"ink", "line", "reference", "candidate", "bad"}
    assert not re.search(r"#0000|font-family|<style|<metadata|xmlns|xlink|http", svg)
    assert ">quantity<" not in svg
    assert ">q<" in svg
    assert all(name.startswith("name-") for name in re.findall(r'\bid="([^"]*)"', svg))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', svg)) <= set(re.findall(r'\bid="([^"]*)"', svg))


def test_gap_is_not_drawn_as_zero():
    """A layer without a value has no marker: two of the three are there."""
    svg = drawing.layers("name", [Series("change", CANDIDATE, (0, 1, 2), (0.1, None, 0.3))], quantity="q")
    whole = drawing.layers("name", [Series("change", CANDIDATE, (0, 1, 2), (0.1, 0.2, 0.3))], quantity="q")
    assert whole.count("<use") - svg.count("<use") == 1


def test_value_without_an_interval_is_drawn():
    """Its marker is there; the line of an interval only where both ends are."""
    points = (0, 1, 2), (0.1, 0.2, 0.3)
    some, none = (
        drawing.layers("name", [Series("change", CANDIDATE, *points, *ends)], quantity="q", limit=1.0)
        for ends in (((0.0, None, 0.2), (0.2, None, 0.4)), ())
    )
    assert some.count("<use") == none.count("<use")


@pytest.mark.parametrize("counts", [[0] * 10, [1] + [0] * 9, [10**12] * 10])
def test_any_counts_can_be_drawn(counts):
    """No pair at all, one, and more than fit on a screen."""
    assert drawing.histogram("name", [Series("reference", REFERENCE, (), counts)]).startswith("<svg viewBox=")

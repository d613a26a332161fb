"""Reports of runs that never were: as small, as large or as hostile as a test needs."""

import datetime as dt
from html.parser import HTMLParser

import numpy as np

from pytest_quantcheck.controls.certificate import certify, judge_control, without_verdicts
from pytest_quantcheck.prompts.promptset import PromptSet
from pytest_quantcheck.records import (
    Answer,
    Convergence,
    Flip,
    Passage,
    PlaceDivergence,
    ReliabilityBin,
    ScoredToken,
    TokenDivergence,
)
from pytest_quantcheck.reporting import Report
from pytest_quantcheck.reporting.html import html_report

CREATED = dt.datetime(2026, 11, 22, 20, 30, tzinfo=dt.UTC)
BLOCKS = {"td", "th", "tr", "dt", "dd", "li", "p", "h1", "h2", "h3", "div", "summary", "figure"}
VOID = {"meta", "link", "br", "hr", "img", "input"}


def run_of(verdicts, *comparisons, outcome="failed", certificate=None, causes=None, not_run=(), **settings):
    """The report of a run with these records."""
    candidates = tuple(dict.fromkeys(found.candidate for found in comparisons))
    return Report(
        schema=2,
        tool_version="0.1.0",
        created=CREATED,
        outcome=outcome,
        model="SmolLM2",
        profile="default@1",
        settings={"model": "SmolLM2", "bits": candidates, "fail": (("flip_rate", 0.1),), **settings},
        verdicts=tuple(verdicts),
        comparisons=comparisons,
        certificate=certificate,
        causes=causes or {},
        not_run=tuple(not_run),
    )


def prompts_of(texts, golds=None, name="boolq"):
    """A prompt set of these texts; rows count from 1."""
    n = len(texts)
    return PromptSet(
        name=name,
        prompts=tuple(texts),
        golds=tuple(golds or ["True"] * n),
        rows=tuple(range(1, n + 1)),
        source=f"{name}.csv",
        template="{prompt}",
    )


def flip(index, before=" True", after=" False", *, sure=0.75, right=(True, False)):
    """A prompt that flipped."""
    return Flip(
        index=index,
        reference=Answer(text=before, confidence=0.5, correct=right[0]),
        candidate=Answer(text=after, confidence=sure, correct=right[1]),
    )


def drawn(make, comparison, layers=(0, 14, 29), flips=()):
    """The comparison with all that figures are made of, for these layers."""
    generator = np.random.default_rng(0)

    def bins():
        sure, right = sorted(generator.random(10).tolist()), generator.random(10).tolist()
        return tuple(ReliabilityBin(count=52, confidence=c, accuracy=a) for c, a in zip(sure, right, strict=True))

    tried = {
        "reference": Convergence(attributed=64, converged=60, median_nodes=8.0, median_error=0.01),
        "candidate": Convergence(attributed=64, converged=59, median_nodes=16.0, median_error=None),
    }
    pairs = {name: tuple(int(count) for count in 10.0 ** np.arange(9, -1, -1)) for name in ("reference", "candidate")}
    return make.replace(
        comparison,
        reliability={"reference": bins(), "candidate": bins()},
        convergence=dict.fromkeys(layers, tried),
        histograms=dict.fromkeys(layers, pairs),
        flips=tuple(flips),
    )


def written(*passages):
    """Where a candidate is off on what the reference wrote: (prompt, tokens), each (written, top, token KL)."""
    worst = [
        Passage(
            index=index,
            divergence=float(np.mean([divergence for *_, divergence in tokens])),
            tokens=tuple(ScoredToken(written=text, top=top, divergence=own) for text, top, own in tokens),
        )
        for index, tokens in passages
    ]
    places = [PlaceDivergence(first=n, last=n, count=512 // n, mean=0.01 * n, p95=0.05) for n in range(1, 17)]
    percentiles = {"99.9": 2.5, "50": 0.0011, "100": 7.0}
    return TokenDivergence(percentiles=percentiles, places=tuple(places), worst=tuple(worst))


def damaged(make, flips=()):
    """Verdicts and comparison of the run in which every kind of verdict occurs, with sides, drawn."""
    verdicts, comparison = make.damaged_run()
    sides = {"accuracy_drop": (0.5, 0.62), "confidence_drift": (0.7, 0.74), "ace_drift": (0.217, 0.29)} | {
        "dead_neuron_delta": (0.1, 0.12)
    }
    estimates = [
        make.replace(one, reference=sides[one.metric][0], candidate=sides[one.metric][1])
        if one.metric in sides
        else one
        for one in comparison.estimates
    ]
    return verdicts, drawn(make, make.replace(comparison, estimates=tuple(estimates)), flips=flips)


def certificate_of(make, outcome="passed"):
    """A certificate of a null, a defect that was caught, one that was not, and one that makes no sense."""
    found = make.estimate("kl_divergence", 0.2, 0.19, 0.21)
    seen, fine = make.verdict(found, "failed"), make.verdict(found, "passed")
    controls = [
        judge_control("null-dtype", "boolq", [fine], done="loaded as fp32"),
        judge_control("two-bit-layer", "boolq", [seen if outcome == "passed" else fine], done="layer 2 at 2 bits"),
        without_verdicts("three-bits", "boolq", "not applicable", "the weights are packed"),
    ]
    return certify_whole(controls)


def certify_whole(controls):
    """The certificate of a whole run of these controls."""
    return certify(controls, whole=True, model="SmolLM2", profile="default@1", tool_version="0.1.0", created=CREATED)


class Page(HTMLParser):
    """A page taken apart; asking for one makes sure that its elements are closed in order."""

    def __init__(self, report, prompts=()):
        super().__init__()
        self.data = html_report(report, {one.name: one for one in prompts})
        self.source = self.data.decode()
        self.elements, self.text, self.title = [], "", ""
        self._open, self._hidden = [], 0
        self.feed(self.source)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.text += "\n" if tag in BLOCKS else ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else, line {self.getpos()}"

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data

    def having(self, attribute, value=None):
        """The attributes of every element that has that attribute, with that value if one is given."""
        return [own for _, own in self.elements if attribute in own and value in (None, own[attribute])]

    @property
    def words(self):
        """The text, with every run of blanks as one."""
        return " ".join(self.text.split())

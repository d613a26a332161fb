"""The summary at the end of a run."""

import msgspec
import pytest

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import NotRun
from pytest_quantcheck.reporting.terminal import remark_lines, summary_lines
from tests.reporting.runs import run_of

DOUBTS = {"accuracy_drop": 900, "confidence_drift": 2000}


def texts(verdicts, comparisons, *, causes=None, not_run=(), **options):
    """The summary's lines without their markup."""
    report = run_of(verdicts, *comparisons, causes=causes, not_run=not_run)
    return [text for text, _ in summary_lines(report, **options)]


def rows(lines):
    """The words of each row of the only table, by the metric's title."""
    titles = [metric.title for metric in METRICS.values()]
    start = next(number for number, line in enumerate(lines) if line.startswith("metric "))
    return {
        title: line.removeprefix(title).split() for title in titles for line in lines[start:] if line.startswith(title)
    }


def test_damaged_candidate(make):
    """A whole summary: what stands against the candidate, what to do, the table at the worst layers, and the notes."""
    verdicts, comparison = make.damaged_run()
    assert texts(verdicts, [comparison]) == [
        "nf4: not fit for release (4 failed, 1 unmeasured, 1 inconclusive, 1 passed, 1",
        "passed with a warning, 1 not gated)",
        "- ACE drift of nf4 on boolq is above its limit: 0.0731, limit at most 0.0500",
        "  (how far the gap between confidence and accuracy moved)",
        "- KL divergence of nf4 on boolq is above its limit: 0.1902, limit at most 0.1000",
        "  (how far the probabilities of the answers moved)",
        "- flip rate of nf4 on boolq is above its limit: 0.3418, limit at most 0.1000",
        "  (share of prompts that get another answer)",
        "- redundancy change of nf4 on boolq at layer 14 is above its limit: 0.0653,",
        "  limit at most 0.0200 (how far the correlations between neurons moved)",
        "- dead-neuron churn of nf4 on boolq at layer 0 could not be measured: all",
        "  neurons are constant",
        "- 64 prompts are too few to say whether salient-neuron overlap of nf4 on boolq",
        "  at layer 14 is within its limit: 0.5211, limit at least 0.5000 (share of the",
        "  neurons behind an answer that stayed the same)",
        "- next: release a higher bit-width; or, if the change is acceptable, say so:",
        "  --quantcheck-fail=METRIC:LIMIT",
        "- next: remove the cause; or let this metric pass unmeasured:",
        "  --quantcheck-allow-unmeasured=dead_neuron_churn",
        "- next: about 900 prompts would settle it: add prompts, and",
        "  --quantcheck-attribution-samples=900",
        "- 512 prompts are too few to say whether confidence drift of nf4 on boolq is",
        "  within its limit: 0.0412, limit at most 0.0500 (how far the mean confidence",
        "  moved); it passes with a warning",
        "",
        "nf4 on boolq: 512 prompts",
        "metric                 layer   value 95 % interval      limit   verdict",
        "accuracy drop                -0.1211 -0.1582 to -0.0840 <= 0.05 passed",
        "confidence drift              0.0412 0.0301 to 0.0523   <= 0.05 inconclusive",
        "ACE drift                     0.0731 0.0512 to 0.0960   <= 0.05 failed",
        "KL divergence                 0.1902 0.1702 to 0.2113   <= 0.1  failed",
        "flip rate                     0.3418 0.3008 to 0.3828   <= 0.1  failed",
        "dead-neuron delta          0  0.0000 0.0000 to 0.0000   -       not gated",
        "dead-neuron churn          0       - -                  <= 0.02 unmeasured",
        "salient-neuron overlap    14  0.5211 0.4402 to 0.6013   >= 0.5  inconclusive",
        "redundancy change         14  0.0653 0.0642 to 0.0664   <= 0.02 failed",
        "- confidence drift: the limit lies inside the interval, it passes with a",
        "  warning; about 2,100 prompts would settle it: add prompts, and",
        "  --quantcheck-samples=2100",
        "- not gated, as this run has no verdict on it: dead-neuron delta",
        "- dead-neuron churn: layers 0, 14, 29 unmeasured: all neurons are constant",
        "- salient-neuron overlap: layer 0 not applicable: the reference's attribution",
        "  does not converge there",
        "- another torch: 2.12.0",
    ]


def test_nothing_to_tell():
    """A run without verdicts and comparisons has no summary."""
    assert texts([], []) == []


def test_sound_candidate_claims_no_more_than_was_judged(make):
    """A part of the suite (`-k`) can pass without the release being declared fit."""
    verdicts, comparison = make.sound_run()
    left_out = [NotRun(candidate="int8", tests=("quantcheck::test_flip_rate[int8-boolq]",), whole=False)]
    first, second, third = texts(verdicts[:1], [comparison], not_run=left_out)[:3]
    assert f"{first} {second}" == (
        "a part of the gate: 1 test was not run (quantcheck::test_flip_rate[int8-boolq]), "
        "and what it tests is not decided"
    )
    assert third == "int8: met every limit that was tested (1 passed, 1 not run)"


def test_each_candidate_has_an_outcome(make):
    """The candidates' outcomes come first, bad ones before good ones, then their tables in the same order."""
    (bad, nf4), (good, int8) = make.damaged_run(), make.sound_run()
    lines = texts([*good, *bad], [int8, nf4])
    heads = [line.partition(" (")[0] for line in lines if line.startswith(("nf4", "int8"))]
    assert heads == [
        "nf4: not fit for release",
        "int8: may be released",
        "nf4 on boolq: 512 prompts",
        "int8 on boolq: 512 prompts",
    ]


def test_objections_are_named_where_their_texts_stand_above(make):
    """Under the texts of pytest's failures a line for each status is enough."""
    verdicts, comparison = make.damaged_run()
    first, _, *objections = texts(verdicts, [comparison], brief=True)
    assert first.startswith("nf4: not fit for release (4 failed")
    assert objections[:5] == [
        "- failed: ACE drift on boolq, KL divergence on boolq, flip rate on boolq,",
        "  redundancy change on boolq at layer 14",
        "- unmeasured: dead-neuron churn on boolq at layer 0",
        "- inconclusive: salient-neuron overlap on boolq at layer 14",
        "- next: release a higher bit-width; or, if the change is acceptable, say so:",
    ]


def test_candidate_without_verdicts_has_its_cause(make):
    """What kept tests from a verdict is said once, however many they were, and says that it was not judged."""
    verdicts, comparison = make.sound_run()
    causes = {"broken": ["broken cannot be loaded: no\nfile"] * 9, "int8": ["out of memory"]}
    lines = texts(verdicts, [comparison], causes=causes)
    assert lines[:4] == [
        "int8: could not be judged (6 passed, 1 test without a verdict)",
        "- out of memory",
        "broken: could not be judged (9 tests without a verdict)",
        "- broken cannot be loaded: no file",
    ]


def test_metric_without_a_limit_is_not_gated_measured_or_not(make):
    """The outcome counts it, its row says so, and a note says why it has no value."""
    found = [make.estimate("kl_divergence", 0.01, 0.0, 0.02), make.unmeasured("accuracy_drop", "never right")]
    lines = texts([make.verdict(found[0], "passed", "int8")], [make.comparison(*found, candidate="int8")])
    assert lines[0] == "int8: may be released (1 passed, 1 not gated)"
    assert rows(lines)["accuracy drop"][-2:] == ["not", "gated"]
    assert "- accuracy drop: unmeasured: never right" in lines


def test_one_step_for_many_failures(make):
    """What would help several verdicts is said once: the larger number of prompts, and no metric by name."""
    doubts = [make.verdict(make.estimate(name), "inconclusive", prompts_needed=n) for name, n in DOUBTS.items()]
    failures = [make.verdict(make.estimate(name)) for name in ("ace_drift", "flip_rate")]
    steps = [line for line in " ".join(texts([*doubts, *failures], [], verbosity=-2)).split("- ") if "next: " in line]
    assert " ".join(" ".join(steps).split()) == (
        "next: release a higher bit-width; or, if the change is acceptable, say so: --quantcheck-fail=METRIC:LIMIT "
        "next: about 2,000 prompts would settle it: add prompts, and --quantcheck-samples=2000"
    )


def test_verbosity_decides_how_much_is_shown(make):
    """-qq leaves the outcomes; -v adds the other layers, which have no verdict of their own."""
    verdicts, comparison = make.damaged_run()
    assert "" not in texts(verdicts, [comparison], verbosity=-2)
    layers = [line.split() for line in texts(verdicts, [comparison], verbosity=1) if line.startswith("redundancy")]
    assert layers == [
        ["redundancy", "change", "14", "0.0653", "0.0642", "to", "0.0664", "<=", "0.02", "failed"],
        ["redundancy", "change", "0", "0.0231", "0.0229", "to", "0.0234", "-"],
        ["redundancy", "change", "29", "<0.0001", "<0.0001", "to", "<0.0001", "-"],
    ]


def test_narrow_terminal_gets_a_list(make):
    """Where the table does not fit, each metric is a sentence with the same facts."""
    verdicts, comparison = make.damaged_run()
    lines = texts(verdicts, [comparison], width=60)
    assert "  ACE drift: failed, 0.0731 (0.0512 to 0.0960), <= 0.05" in lines
    assert "  dead-neuron churn at layer 0: unmeasured, <= 0.02" in lines
    assert not any(line.startswith("metric ") for line in lines)


@pytest.mark.parametrize(
    ("state", "markup"),
    [
        ({"status": "passed"}, {}),
        ({"status": "failed"}, {"red": True}),
        ({"status": "inconclusive"}, {"red": True}),
        ({"status": "inconclusive", "acceptable": True, "warning": True}, {"yellow": True}),
    ],
)
def test_row_has_the_colour_of_its_outcome(state, markup, make):
    """Red fails, yellow is to be looked at, and what passed needs no colour."""
    lines = summary_lines(run_of([make.verdict(**state)]))
    assert next(dict(colour) for text, colour in lines if text.startswith("ACE drift   ")) == markup


@pytest.mark.parametrize(("metric", "layer"), [("salient_overlap", "0"), ("redundancy_change", "29")])
def test_metric_without_a_verdict_shows_its_worst_layer(metric, layer, make):
    """The worst layer is the lowest overlap, but the highest change; a layer without a value is never the worst."""
    found = [make.estimate(metric, value, layer=place) for place, value in ((0, 0.1), (14, 0.2), (29, 0.3))]
    (cells,) = rows(texts([], [make.comparison(*found, make.unmeasured(metric, "no", layer=30))])).values()
    assert cells[0] == layer


def test_metric_that_is_nowhere_applicable(make):
    """Where the reference gives no definition at any layer the row says n/a, and a note says why."""
    found = [make.unmeasured("salient_overlap", "never converges", layer=layer, applicable=False) for layer in (0, 1)]
    lines = texts([], [make.comparison(*found)])
    assert rows(lines)["salient-neuron overlap"][-1] == "n/a"
    assert lines[-1] == "- salient-neuron overlap: layers 0, 1 not applicable: never converges"


def test_remark_on_a_measured_value_is_shown(make):
    """An estimate can say something of a value that it has."""
    found = make.estimate("kl_divergence", reason="a lower bound: the top 1,024 tokens and the rest")
    assert (
        texts([], [make.comparison(found)])[-1] == "- KL divergence: a lower bound: the top 1,024 tokens and the rest"
    )


def test_reason_is_said_once(make):
    """A reason that a note of the comparison gives is not repeated."""
    found = make.unmeasured("salient_overlap", "does not converge", layer=0, applicable=False)
    lines = texts([], [make.comparison(found, notes=["salient overlap: layer 0: does not converge"])])
    assert sum("does not converge" in line for line in lines) == 1


def test_verdict_without_a_comparison_is_shown(make):
    """Verdicts alone make a table too."""
    lines = texts([make.verdict()], [])
    assert "nf4 on boolq: 512 prompts" in lines
    assert rows(lines)["ACE drift"][-1] == "failed"


def test_intervals_of_two_levels_are_not_given_one(make):
    """The head names a confidence level only when all intervals have it."""
    found = [make.estimate("ace_drift"), make.estimate("flip_rate", confidence=0.9)]
    head = next(line for line in texts([], [make.comparison(*found)]) if line.startswith("metric"))
    assert "interval" in head
    assert "%" not in head


def test_tiny_value_is_not_shown_as_zero(make):
    """A value that is not zero does not look like zero."""
    found = [make.estimate("ace_drift", 0.00005, 0.0, 0.0002)]
    assert rows(texts([], [make.comparison(*found)]))["ACE drift"] == [
        "<0.0001",
        "0.0000",
        "to",
        "0.0002",
        "-",
        "not",
        "gated",
    ]


def test_widest_table_fits_80_columns(make):
    """The longest title, numbers, limit and verdict that records can hold stay within 80 columns."""
    wide = {"value": -9.8765, "low": -9.9999, "high": -9.7531}
    found = make.estimate("salient_overlap", layer=126, **wide)
    lines = texts([make.verdict(found, "inconclusive", limit=0.001234)], [make.comparison(found)])
    assert max(map(len, lines)) == 80


@pytest.mark.parametrize("width", [40, 80, 200])
def test_sentences_fit_the_width(width, make):
    """Sentences and notes are wrapped to the width, whatever names and notes hold."""
    (bad, comparison), name = make.damaged_run(), "models/" + "x" * 300
    verdicts = [make.replace(verdict, candidate=name) for verdict in bad]
    comparison = make.replace(comparison, candidate=name, notes=("y" * 500, "word " * 100))
    lines = texts(verdicts, [comparison], width=width)
    options = {line for line in lines if line.startswith("  --quantcheck-")}
    assert max(map(len, set(lines) - options)) <= width


def test_option_is_never_broken(make):
    """On a terminal that is narrower than an option, the option can be copied all the same."""
    verdicts, _ = make.damaged_run()
    assert "  --quantcheck-allow-unmeasured=dead_neuron_churn" in texts(verdicts, [], width=40)


def test_summary_is_ascii(make):
    """Names and notes in any script, and what would steer a terminal, come out as ASCII."""
    verdict = make.verdict(candidate="größe", prompt_set="問題\x1b[31m")
    comparison = make.replace(make.comparison(notes=("naïve\r\nnote",)), candidate="größe")
    lines = texts([verdict], [comparison])
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert r"gr\xf6\xdfe: not fit for release (1 failed)" in lines


def test_a_metric_that_gates_from_more_prompts_up_says_from_how_many(make):
    """Where the profile has a limit and the prompts are too few for it, the number needed is named."""
    _, comparison = make.damaged_run()
    few = msgspec.structs.replace(comparison, n_prompts=100, profile=load_profile("default@2"))
    (note,) = (" ".join(line.split()) for line in [" ".join(texts([], [few]))] if "not gated" in line)
    assert "accuracy drop (from 512 prompts up)" in note
    assert "ACE drift (from 256 prompts up)" in note
    assert "KL divergence (from" not in note


def test_remark_is_wrapped_and_its_paths_are_whole():
    """A sentence on the run keeps to the width; a path is one word, however long, to be copied."""
    path = "/".join(["a-long-directory"] * 8)
    lines = [line for line, _ in remark_lines(f"no report: cannot write {path}: no\nroom", width=40)]
    assert lines == ["no report: cannot write", f"{path}:", "no room"]

"""The report for people: what it says first, what it holds, and that it needs nothing but itself."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import msgspec
import pytest

from pytest_quantcheck.metrics import METRICS
from tests.reporting.runs import Page, certificate_of, damaged, drawn, flip, prompts_of, run_of, written


@pytest.fixture(scope="module")
def pages():
    """Pages that are made once, by name."""
    return {}


@pytest.fixture
def red(make, pages):
    """A run with a candidate in all states and one that passes everything, with controls and flipped prompts."""
    if not pages:
        flips = [flip(0), flip(1, right=(False, True)), flip(2, "a", "b", right=(False, False))]
        verdicts, comparison = damaged(make, flips)
        good, sound = make.sound_run()
        report = run_of([*verdicts, *good], comparison, sound, certificate=certificate_of(make))
        pages["red"] = Page(report, [prompts_of(["Is it so?", "word " * 60, "short"])])
    return pages["red"]


def test_page_says_the_outcome_first(red):
    """Heading, then each candidate with its verdict, those that failed with what, how much, where and what to do."""
    words = red.words
    assert "Not fit for release: nf4 No verdict stands against int8. profile default@1" in words
    assert "nf4 ✗ failed 4 failed, 1 unmeasured, 1 inconclusive," in words
    assert "int8 ✓ passed 6 passed" in words
    verdicts = words[: words.index("int8 ✓ passed")]
    assert verdicts.index("flip rate of nf4 on boolq is above its limit") < verdicts.index("redundancy change of nf4")
    assert "0.2418 above the limit: 0.3418, limit at most 0.1000, 95 % interval 0.3008 to 0.3828" in verdicts
    assert "Where value beyond the limit at 2 of 3 layers: 0, 14" in verdicts
    assert "What to do release a higher bit-width; or, if the change is acceptable, say so: --quantcheck-fail=" in words


def test_inconclusive_verdict_that_passes_is_among_the_doubts(red):
    """It is no finding against the candidate, and is not left out either."""
    assert "1 in doubt, passed with a warning 512 prompts are too few" in red.words


def test_every_metric_has_a_row_drawn_to_scale(red):
    """Title, verdict, numbers and a drawing whose text alternative says the same."""
    scales = [own["aria-label"] for own in red.having("class") if own["class"].startswith("scale ")]
    assert "value 0.0731, 95 % interval 0.0512 to 0.0960, limit at most 0.0500" in scales
    assert len(scales) == 8 + 6
    for metric in ("accuracy_drop", "salient_overlap", "redundancy_change"):
        assert f"{METRICS[metric].title} " in red.words


def test_figures_have_a_text_alternative_and_their_numbers(red):
    """As many tables of numbers as drawings, and each drawing says in words what it shows."""
    drawings = red.having("class", "drawing")
    assert len(drawings) == red.source.count("<figure>") == red.source.count("Numbers<span")
    assert all(own["role"] == "img" and len(own["aria-label"]) > 20 for own in drawings)
    for title in (
        "Reliability",
        "Dead neurons",
        "Salient-neuron overlap",
        "Redundancy change",
        "Convergence of the attributions",
        "Pairs by correlation, layer 14",
        "Accuracy",
        "Confidence",
        "Calibration error (ACE)",
    ):
        assert f"<strong>{title}</strong>" in red.source, title


def test_paper_figures_have_every_candidate(red):
    """Accuracy of reference and candidates side by side, as numbers too."""
    assert "Accuracy: reference 0.5000, nf4 0.6200" in red.source


def test_flips_that_lost_an_answer_come_first(red):
    """Both answers with confidence and correctness, the gold answer and the row; a long prompt is folded."""
    assert "1 right to wrong, 1 wrong to right, 1 wrong to another wrong" in red.words
    first = "row 1 right to wrong; gold “True” reference “ True” ✓ right confidence 0.5000 candidate “ False” ✗ wrong"
    assert first in red.words
    assert red.words.index("Is it so?") < red.words.index("word word")
    assert re.search(r"<details><summary><bdi>(word ){16}</bdi>…</summary>", red.source)


def test_worst_passages_are_marked_token_by_token(make):
    """Percentiles ascending; the number beside tokens that are far off, the candidate's own where it is another."""
    verdicts, comparison = damaged(make)
    tokens = [(" True", " True", 0.0), ("\n", " False", 0.02), (" so", " so", 0.1), (" it", " not", 1.5)]
    divergence = written((1, tokens), (9, [("x", "x", 0.2)]))
    report = run_of(verdicts, make.replace(comparison, token_divergence=divergence))
    page = Page(report, [prompts_of(["Is it so?", "word " * 60])])
    assert "Token KL in nats: median 0.0011, 99.9th percentile 2.500, largest 7.000." in page.words
    assert "Show the 2 prompts with the largest mean" in page.words
    assert r"row 2 mean token KL 0.4050" in page.words
    assert r" True\ncandidate “ False” so0.1000 it1.500 candidate “ not”" in page.text
    assert re.search(r"<details><summary><bdi>(word ){16}</bdi>…</summary>", page.source)
    assert "row 10 mean token KL 0.2000 x0.2000" in page.words
    strengths = [own["class"] for own in page.having("class") if own["class"].startswith("token ")]
    assert strengths == [f"token strength-{strength}" for strength in (0, 1, 3, 1)]
    without = Page(run_of(verdicts, comparison))
    assert "Token KL in nats" not in without.words


def test_certificate_is_there_when_controls_ran(red):
    """Its conclusion beside the verdicts, and each control with what was done and who saw it."""
    assert (
        "Can this gate be trusted? 1 of 1 negative control passed, 1 of 1 defect was caught, 1 not applicable"
        in red.words
    )
    assert "two-bit-layer defect be caught ✓ passed KL divergence boolq layer 2 at 2 bits" in red.words


def test_certificate_that_failed_says_so(make):
    """A defect that no metric saw is a finding about the gate."""
    verdicts, comparison = make.sound_run()
    page = Page(run_of(verdicts, comparison, certificate=certificate_of(make, "failed")))
    assert "✗ failed: 1 of 1 negative control passed, 0 of 1 defects were caught" in page.words.replace(
        "defect was", "defects were"
    )
    assert "The gate failed its controls, and no verdict stands against a candidate" in page.words


def test_failed_run_without_findings_points_to_its_output(make):
    """A test of the user's own can fail where no verdict does."""
    verdicts, comparison = make.sound_run()
    page = Page(run_of(verdicts, comparison))
    assert "The run failed, and no verdict stands against a candidate: see its output" in page.words


def test_candidate_that_failed_comes_first(make):
    """Whatever the order of the run: what stopped a release is what the reader came for."""
    good, sound = make.sound_run()
    verdicts, comparison = damaged(make)
    words = Page(run_of([*good, *verdicts], sound, comparison)).words
    assert words.index("nf4 ✗ failed") < words.index("int8 ✓ passed")


def test_layers_without_a_value_are_named(red):
    """An unmeasured metric has no worst layer: it says at which of them nothing was measured."""
    assert "Where no value at 3 of 3 layers: 0, 14, 29" in red.words
    assert "Where worst at layer 14" in red.words


def test_findings_beyond_the_foremost_are_folded(make):
    """Eight prompt sets on which it fails: the worst are seen at once, the number of the others is said."""
    found = [make.verdict(prompt_set=name) for name in "abcdefgh"]
    page = Page(run_of(found, bits=("nf4",)))
    assert "nf4 ✗ failed 8 failed" in page.words
    assert "2 more against it ACE drift of nf4 on g" in page.words
    assert page.having("start", "7")


def test_what_was_not_measured_has_no_empty_part(make):
    """Without accuracy, confidence and ACE there is nothing to set side by side, and no heading for it."""
    found = make.estimate("flip_rate", 0.5, None, None)
    page = Page(run_of([make.verdict(found)], make.replace(make.comparison(found), n_prompts=1)))
    assert "All candidates" not in page.words
    assert "nf4 on boolq 1 prompt " in page.words


def test_many_layers_are_named_by_their_ends(make):
    """Layers in a row are said as first and last."""
    found = [make.estimate("redundancy_change", 0.01 if n == 7 else 0.09, 0, 1, layer=n) for n in range(32)]
    page = Page(run_of([make.verdict(found[0])], make.comparison(*found)))
    assert "Where value beyond the limit at 31 of 32 layers: 0 to 6, 8 to 31" in page.words


def test_provenance_marks_what_differs(red):
    """Facts of reference and candidate side by side; what is the same is said once."""
    assert "bits bf16 nf4" in red.words
    assert red.words.count("c0" * 32) == 1
    assert "fail flip_rate, 0.1" in red.words


def test_page_is_one_file_without_scripts(red):
    """Nothing is loaded from anywhere, nothing is run, and a policy in the page itself forbids both."""
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:|\bon\w+=", red.source)
    for _, own in red.elements:
        for name in ("href", "src", "xlink:href", "action", "data", "srcset"):
            assert own.get(name, "#").startswith(("#", "data:,")), own
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", red.source)
    (policy,) = red.having("http-equiv")
    assert policy["content"].startswith("default-src 'none'")


def test_ids_are_unique_and_links_lead_somewhere(red):
    """Also those within drawings, of which many stand in one page."""
    ids = [own["id"] for own in red.having("id")]
    assert len(ids) == len(set(ids))
    targets = {own["href"][1:] for own in red.having("href") if own["href"].startswith("#")}
    targets |= set(re.findall(r"url\(#([\w-]+)\)", red.source))
    assert targets <= set(ids)


def test_headings_go_down_step_by_step(red):
    """One h1, and no level is left out: what a screen reader lists is the page's outline."""
    levels = [int(tag[1]) for tag, _ in red.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_same_records_give_the_same_bytes(make):
    """No date, no random number, no order of a set: another process, which hashes otherwise, writes the same page."""
    verdicts, comparison = damaged(make, [flip(0)])
    report = run_of(verdicts, comparison)
    code = (
        "import sys, msgspec; from pytest_quantcheck.reporting import Report; "
        "from pytest_quantcheck.reporting.html import html_report; "
        "report = msgspec.json.decode(sys.stdin.buffer.read(), type=Report); "
        "sys.stdout.buffer.write(html_report(report, {}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=msgspec.json.encode(report),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout == Page(report).data


def test_drawing_library_is_imported_when_a_page_is_written():
    """A run that writes no report pays nothing for it, nor needs it."""
    code = "import sys, pytest_quantcheck.suite.session; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_green_run_has_nothing_against_it(make):
    """A candidate without a finding, and a headline that says so."""
    verdicts, comparison = make.sound_run()
    page = Page(run_of(verdicts, comparison, outcome="passed"))
    assert "May be released: int8" in page.words
    assert "None: the candidate gives the reference's answer to every prompt." in page.words


def test_candidate_without_verdicts_is_not_called_good():
    """One that could not be loaded is listed with the cause, once, and the headline does not speak of a release."""
    page = Page(run_of([], causes={"model-gptq": ("ModelError: no <b>kernel</b> here",) * 2}))
    assert "Could not be judged: model-gptq" in page.words
    assert "model-gptq ! not judged 2 tests without a verdict ModelError: no <b>kernel</b> here" in page.words
    assert page.words.count("ModelError") == 1
    assert "May be released" not in page.words


def test_flips_without_their_prompts_are_listed(make):
    """A report whose prompt set is not at hand has answers all the same."""
    verdicts, comparison = damaged(make, [flip(7)])
    assert "row 8 right to wrong reference “ True”" in Page(run_of(verdicts, comparison)).words


def test_flips_beyond_what_a_page_bears_are_counted(make):
    """Nothing is left out in silence: the number of those that are not shown is said, and where they are."""
    verdicts, comparison = damaged(make, [flip(index) for index in range(3_000)])
    page = Page(run_of(verdicts, comparison))
    shown = page.source.count("<strong>row ")
    assert 1_000 < shown < 3_000
    assert f"Show {shown:,} prompts" in page.words
    assert f"{3_000 - shown:,} more would make this page too large; report.json has all" in page.words


def test_long_prompt_says_what_is_left_out(make):
    """Of a prompt of many thousand characters the beginning and the end are shown, and the number between them."""
    verdicts, comparison = damaged(make, [flip(0)])
    page = Page(run_of(verdicts, comparison), [prompts_of(["start" + "x" * 9_990 + "end?!"])])
    assert "[…9,000 characters left out…]" in page.text
    assert "startxxx" in page.text
    assert "xxxend?!" in page.text


@pytest.mark.ci
def test_large_run_stays_below_five_megabytes(make):
    """Two candidates on 10,000 prompts that all flip, long ones of costly characters too, and all 32 layers."""
    layers = tuple(range(32))
    flips = [flip(index) for index in range(10_000)]
    reports = [
        drawn(
            make,
            make.comparison(
                *(make.estimate(metric, 0.05, 0.01, 0.1) for metric in METRICS if not METRICS[metric].layered),
                *(
                    make.estimate(metric, 0.05, 0.01, 0.1, layer=layer, reference=0.1, candidate=0.2)
                    for metric in METRICS
                    if METRICS[metric].layered
                    for layer in layers
                ),
                candidate=f"candidate{number}",
            ),
            layers,
            flips,
        )
        for number in range(2)
    ]
    verdicts = [make.verdict(one.of("flip_rate")[0], candidate=one.candidate) for one in reports]
    page = Page(
        run_of(verdicts, *reports), [prompts_of(["short", "\U000e0fff" * 2_000, '"<&' * 700, "word " * 20] * 2_500)]
    )
    assert "Strongly correlated pairs" in page.text
    assert len(page.data) < 5_000_000

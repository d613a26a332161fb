"""The summary as Markdown: the terminal's facts, whatever names and notes hold, within the size allowed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.controls.certificate import conclusion, judge_control
from pytest_quantcheck.reporting import markdown_lines, truncate_lines
from pytest_quantcheck.reporting.markdown import escaped
from tests.reporting.runs import certify_whole, run_of

HOSTILE = "<script>|`x`|**b**\n# @all #1 [a](b) :x: $x$ \u202e"


ENDS = "4 failed, 1 unmeasured, 1 inconclusive, 1 passed, 1 passed with a warning, 1 not gated"


def test_red_run(make):
    """The outcome with its reasons and steps, then the table, bold where it stops the release."""
    verdicts, comparison = make.damaged_run()
    lines = list(markdown_lines(run_of(verdicts, comparison), ["the run was cut short"]))
    assert lines[:5] == [
        "",
        "## quantcheck: SmolLM2",
        "",
        f"❌ **nf4: not fit for release ({ENDS})**",
        "",
    ]
    assert (
        "- ACE drift of nf4 on boolq is above its limit: 0.0731, limit at most 0.0500 "
        "(how far the gap between confidence and accuracy moved)"
    ) in lines
    assert (
        "- **next:** about 900 prompts would settle it: add prompts, and --quantcheck-attribution-samples=900" in lines
    )
    start = lines.index("### nf4 on boolq: 512 prompts")
    assert lines[start + 2 : start + 7] == [
        "| metric | layer | value | 95 % interval | limit | verdict |",
        "| --- | ---: | ---: | --- | --- | --- |",
        r"| accuracy drop |  | -0.1211 | -0.1582 to -0.0840 | \<= 0.05 | passed |",
        r"| confidence drift |  | 0.0412 | 0.0301 to 0.0523 | \<= 0.05 | inconclusive |",
        r"| ACE drift |  | 0.0731 | 0.0512 to 0.0960 | \<= 0.05 | **failed** |",
    ]
    assert lines[-1] == "- the run was cut short"


def test_controls_have_their_conclusion(make):
    """A good candidate is one line; what the controls showed is another, and each that failed is named."""
    verdicts, comparison = make.sound_run()
    bad, _ = make.damaged_run()
    controls = [
        judge_control("null-dtype", "boolq", verdicts[:1], done="loaded as fp32"),
        judge_control("null-batches", "boolq", bad[2:3], done="other batches"),
    ]
    for found, mark, named in ((controls[:1], "✅", 0), (controls, "❌", 1)):
        lines = list(markdown_lines(run_of(verdicts, comparison, certificate=certify_whole(found))))
        assert "✅ **int8: may be released (6 passed)**" in lines
        assert f"{mark} **{escaped(conclusion(found))}**" in lines
        assert sum(line.startswith("- null-batches on boolq: ") for line in lines) == named


def test_candidate_without_verdicts(make):
    """What kept a candidate from being judged is there, and no empty table."""
    lines = list(markdown_lines(run_of([], causes={"nf4": ("no such file",) * 3})))
    assert lines[3:] == ["❌ **nf4: could not be judged (3 tests without a verdict)**", "", "- no such file", ""]


def test_hostile_names_and_notes_are_shown_and_do_nothing(make):
    """No name and no note brings markup, HTML, mentions, another column or another line."""
    verdict = make.verdict(candidate=HOSTILE, prompt_set=HOSTILE)
    comparison = make.replace(make.comparison(notes=(HOSTILE,)), candidate=HOSTILE, prompt_set=HOSTILE)
    lines = list(
        markdown_lines(make.replace(run_of([verdict], comparison, causes={HOSTILE: (HOSTILE,)}), model=HOSTILE))
    )
    assert not any("\n" in line or "\u202e" in line for line in lines)
    ours = ("**next:**", "❌ **", "**", "## ", "### ")
    for line in lines:
        if not line.startswith("|"):
            bare = re.sub(r"\\.", "", line)
            for mark in ours:
                bare = bare.replace(mark, "")
            assert not set(bare) & set("<>|`*[]@$"), line
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


@given(st.text())
def test_escaped_text_is_one_line_that_means_itself(text):
    """Each character that means something has its backslash, and taking those away gives back what was printable."""
    found = escaped(text)
    assert len(found.splitlines()) <= 1
    assert not re.search(r"[<>|`*_\[\]&@#~$]", re.sub(r"\\.", "", found))
    assert len(found.replace("\\", "")) >= len("".join(filter(str.isalnum, text)))


@pytest.mark.parametrize("room", [0, 10, 60, 61, 100, 1000])
def test_text_fits_and_says_what_it_lacks(room):
    """Counted in bytes, whole lines only; where even the notice has no room there is nothing."""
    text = truncate_lines(["größe" * 2] * 10, room)
    assert len(text.encode()) <= room
    assert text.count("größegröße\n") == len(re.findall("größegröße", text))
    assert ("cut short" in text) == (0 < text.count("größegröße") < 10)


def test_text_with_room_is_whole():
    """Nothing is added where everything fits, to the last byte."""
    assert truncate_lines(["a", "b"], 4) == "a\nb\n"

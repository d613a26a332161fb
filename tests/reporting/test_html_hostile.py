"""Text from outside is text: it neither becomes markup, nor hides, nor reorders what stands around it."""

import pytest

from tests.reporting.runs import Page, damaged, flip, prompts_of, run_of, written

pytestmark = pytest.mark.ci

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "closing": "</style></svg></details></table><img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;b&gt; &amp;amp;",
    "mathtext": r"$\frac{1}{2}$ and $unclosed",
    "right to left": "هل هذا صحيح؟ שלום",
    "emoji": "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁳󠁣󠁴󠁿 👍🏽",
    "combining": "Z̸̡̢a̴l̷g̶o̵",
    "replacement": "� half a character",
}
HIDDEN = {
    "override": ("abc\u202edcba", r"abc\u202edcba"),
    "escape": ("\x1b[31mred", r"\x1b[31mred"),
    "nul": ("a\x00b", r"a\x00b"),
    "surrogate": ("caf\udce9", r"caf\udce9"),
    "c1": ("a\x85b\x9bc", r"a\x85b\x9bc"),
}


def page_with(make, text):
    """A page in which this stands wherever text from outside can stand."""
    verdicts, comparison = damaged(make, [flip(0, before=text, after=text)])
    verdicts = [make.replace(one, candidate=text, prompt_set=text, profile=text, limit_source=text) for one in verdicts]
    origin = make.replace(
        comparison.reference_provenance, model=text, template=text, libraries={text: text}, quantization={text: [text]}
    )
    estimates = tuple(make.replace(one, reason=text, method=text) for one in comparison.estimates)
    comparison = make.replace(
        comparison,
        candidate=text,
        prompt_set=text,
        estimates=estimates,
        reference_provenance=origin,
        candidate_provenance=make.replace(origin, bits=text),
        notes=(text,),
        token_divergence=written((0, [(text, text, 0.6), (text, "other", 0.0)])),
    )
    report = run_of(verdicts, comparison, model=text, revision=text, prompts=(text,))
    return Page(make.replace(report, profile=text), [prompts_of([text], [text], name=text)])


@pytest.fixture(scope="module")
def pages():
    """Pages that are made once, by the text that stands in them."""
    return {}


@pytest.fixture
def with_text(make, pages):
    """Makes the page in which a text stands in all those places."""

    def page(text):
        if text not in pages:
            pages[text] = page_with(make, text)
        return pages[text]

    return page


def test_text_from_outside_makes_no_element(with_text):
    """With every hostile text at once, the page has the elements and attributes that a harmless word gives it."""
    page, harmless = with_text(" ".join(HOSTILE.values())), with_text("word " * 40)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert [set(own) for _, own in page.elements] == [set(own) for _, own in harmless.elements]


@pytest.mark.parametrize("kind", HOSTILE)
def test_text_is_shown_as_it_is(kind, with_text):
    """Wherever it stands."""
    assert with_text(" ".join(HOSTILE.values())).text.count(HOSTILE[kind]) >= 10


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_cannot_be_seen_is_written_out(kind, with_text):
    """Control characters, halves of characters and overrides of the direction appear as escapes."""
    page = with_text(" ".join(text for text, _ in HIDDEN.values()))
    assert HIDDEN[kind][1] in page.text
    assert not set("\u202e\x1b\x00\x85\x9b") & set(page.source)


def test_text_of_another_direction_is_isolated(with_text):
    """A right-to-left answer does not move the words that stand beside it."""
    page = with_text(" ".join(HOSTILE.values()))
    assert "<bdi>“&lt;script&gt;" in page.source
    assert 'class="prompt" dir="auto"' in page.source


def test_lines_of_a_prompt_are_kept(make):
    """A prompt's own line ends are shown; in an answer they are written out, with its blanks."""
    verdicts, comparison = damaged(make, [flip(0, before="\n\t")])
    page = Page(run_of(verdicts, comparison), [prompts_of(["one\n\ttwo"])])
    assert '<p class="prompt" dir="auto">one\n\ttwo</p>' in page.source
    assert r"“\n\t”" in page.text

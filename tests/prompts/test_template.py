"""What a template may say."""

import pytest

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.prompts.template import Template, parse_template, render

SPELLINGS = {
    "auto": Template(None, None),
    "chat": Template(True, None),
    "raw": Template(False, None),
    "chat:Q: {prompt}": Template(True, "Q: {prompt}"),
    "raw:{prompt}\nA:": Template(False, "{prompt}\nA:"),
    "auto:{prompt}!": Template(None, "{prompt}!"),
}


@pytest.mark.parametrize(("spec", "template"), SPELLINGS.items())
def test_spelling_and_template_stand_for_each_other(spec, template):
    """Every spelling is read, and the template spells itself that way."""
    assert parse_template(spec) == template
    assert str(template) == spec


def test_format_alone_is_raw():
    """A format with no word before it is taken raw, a colon within it included."""
    assert parse_template("Question: {prompt}") == Template(False, "Question: {prompt}")


def test_doubled_braces_are_literal():
    """A literal brace is written twice and is no column."""
    template = parse_template('{{"q": "{prompt}"}}')
    assert template.fields == {"prompt"}
    assert render(template.format, {"prompt": "why"}) == '{"q": "why"}'


def test_braces_in_a_prompt_stay():
    """A prompt's own braces are text, not columns."""
    assert render("{prompt}", {"prompt": "{gold} {0} {{}}"}) == "{gold} {0} {{}}"


BAD = {
    "chta": "expected auto, chat, raw or a format with {prompt}",
    "Answer: {question}": "expected auto, chat, raw or a format with {prompt}",
    "chat:": "expected auto, chat, raw or a format with {prompt}",
    "{prompt} {": "write a literal brace as",
    "{prompt} }": "write a literal brace as",
    "{prompt} {}": "expected plain column names in braces, got {}",
    "{0}": "expected plain column names",
    "{prompt.__class__}": "expected plain column names",
    "{prompt[0]}": "expected plain column names",
    "{prompt!r}": "expected plain column names",
    "{prompt:>99999999}": "expected plain column names",
}


@pytest.mark.parametrize(("spec", "message"), BAD.items())
def test_unusable_template_is_refused(spec, message):
    """A template without a prompt, or with more than plain columns in braces, is refused."""
    with pytest.raises(PromptError) as caught:
        parse_template(spec)
    assert message in str(caught.value)

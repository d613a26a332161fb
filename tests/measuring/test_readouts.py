"""What counts as the answer, how sure it is, and when it is right."""

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.options.attribution import AttributionMethod

OFF = AttributionMethod("off")

NOISE = 1e-5
"""Softmax of float32 logits, padded in batches against unpadded one by one."""


def asking(prompts, *, texts=None, golds):
    """The same prompts, or `texts`, with these golds."""
    texts = texts or prompts.prompts[: len(golds)]
    return dataclasses.replace(prompts, prompts=tuple(texts), golds=tuple(golds), rows=tuple(range(1, len(golds) + 1)))


@pytest.fixture(scope="module")
def said(loaded, prompts, logits):
    """What the model says, in words, by plain transformers code."""
    return [loaded.tokenizer.decode(int(token)) for token in logits(loaded, prompts).argmax(axis=1)]


def test_the_answer_is_the_most_probable_token(loaded, prompts, reference, logits):
    """Token readout: argmax and maximum of the softmax over the whole vocabulary."""
    expected = softmax(logits(loaded, prompts), axis=1)
    assert np.array_equal(reference.answers.token, expected.argmax(axis=1))
    np.testing.assert_allclose(reference.answers.confidence, expected.max(axis=1), rtol=0, atol=NOISE)


def test_right_is_what_the_gold_answer_says(reference, prompts, said):
    """The built-in golds are single tokens: right is to say just that, and the model does and does not."""
    expected = [word == gold for word, gold in zip(said, prompts.golds, strict=True)]
    assert reference.answers.correct.tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize(
    ("readout", "own", "other", "right"),
    [
        ("token", "{}", "Maybe", True),
        ("token", "  {} ", "Maybe", True),
        ("token", "{} indeed", "Maybe", True),
        ("token", "{} indeed", "{} perhaps", False),
        ("token", "{}", "{} perhaps", True),
        ("token", "{} perhaps", "{}", False),
        ("token", "un{}", "Maybe", False),
        ("substring", "{}", "Maybe", True),
        ("substring", "{} indeed", "Maybe", False),
    ],
)
def test_a_prefix_counts_where_it_can_mean_nothing_else(run, loaded, prompts, said, *, readout, own, other, right):
    """Half the golds are `own` and half `other`, both made from what the model says to the first prompt."""
    word = said[0].upper()  # case does not matter
    golds = [own.format(word), other.format(word)] * 2
    found = run(loaded, asking(prompts, golds=golds), readout=readout, attribution=OFF)
    assert found.answers.correct[0] == right


def test_only_the_papers_rule_takes_answer_for_an_a(run, loaded, prompts, logits):
    """A model that says "Answer" is right about the gold "A" under `substring` and wrong under `token`."""
    asked = asking(prompts, texts=[f"True or False? Every {who} has legs." for who in ("dog", "cat")], golds=["A", "B"])
    assert loaded.tokenizer.decode(int(logits(loaded, asked)[0].argmax())) == "Answer"
    correct = {
        readout: run(loaded, asked, readout=readout, attribution=OFF).answers.correct.tolist()
        for readout in ("token", "substring")
    }
    assert correct == {"token": [False, False], "substring": [True, False]}


def test_choices_are_renormalised(run, loaded, prompts, logits):
    """Choices readout: softmax over the first tokens of the golds, whatever the rest of the vocabulary says."""
    found = run(loaded, prompts, readout="choices", attribution=OFF).answers
    golds = list(dict.fromkeys(prompts.golds))
    ids = np.array([loaded.tokenizer.convert_tokens_to_ids(gold) for gold in golds])
    expected = softmax(logits(loaded, prompts)[:, ids], axis=1)
    assert np.array_equal(found.token, ids[expected.argmax(axis=1)])
    np.testing.assert_allclose(found.confidence, expected.max(axis=1), rtol=0, atol=NOISE)
    np.testing.assert_allclose(np.exp(found.log_probs), expected, rtol=0, atol=NOISE)
    assert (found.support == ids).all()
    assert found.exact
    assert found.correct.tolist() == [
        golds[i] == g for i, g in zip(expected.argmax(axis=1), prompts.golds, strict=True)
    ]


def test_choices_never_answer_beside_the_question(run, loaded, prompts, said):
    """Where the most probable token is no gold at all, the answer is still one of the golds."""
    found = run(loaded, asking(prompts, golds=["every", "dog"] * 5), readout="choices", attribution=OFF).answers
    answers = {loaded.tokenizer.decode(int(token)) for token in found.token}
    assert answers <= {"every", "dog"}
    assert not answers & set(said)


def test_choices_refuse_answers_that_begin_alike(run, loaded, prompts):
    """Two golds with one first token cannot be told apart by it."""
    asked = asking(prompts, golds=["True is it", "True it is"] * 5)
    with pytest.raises(PromptError, match=r"cannot tell 'True is it' from 'True it is'.*use the token readout"):
        run(loaded, asked, readout="choices", attribution=OFF)


def test_one_choice_is_none(run, loaded, prompts):
    """With one gold alone every model would be sure and right, and nothing of its answers could ever change."""
    with pytest.raises(PromptError, match=r"needs different gold answers .* has 'True' alone.*use the token readout"):
        run(loaded, asking(prompts, golds=["True"] * 10), readout="choices", attribution=OFF)


def test_a_chat_template_that_is_not_there_is_refused(run, loaded, prompts):
    """The built-in model has none; a prompt set that insists on one cannot be read by it."""
    with pytest.raises(PromptError, match=r"chat template.*has none.*--quantcheck-template=raw"):
        run(loaded, dataclasses.replace(prompts, chat=True))

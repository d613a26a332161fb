"""Prompts that a model cannot tell apart are one unit of evidence, whatever their texts are."""

import dataclasses

import numpy as np
import pytest

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.prompts import PromptSet


def prompt_set(texts, golds):
    """Prompts in the order given."""
    return PromptSet("same", tuple(texts), tuple(golds), tuple(range(1, len(texts) + 1)), "same.csv", "raw", chat=False)


class Forgetful:
    """A tokenizer that drops what stands behind a bar, as one does that maps unknown words to nothing."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __call__(self, texts, **options):
        bare = texts.partition("|")[0] if isinstance(texts, str) else [text.partition("|")[0] for text in texts]
        return self._tokenizer(bare, **options)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.fixture
def forgetful(loaded):
    """The built-in model behind that tokenizer."""
    return dataclasses.replace(loaded, tokenizer=Forgetful(loaded.tokenizer))


def different(prompts, n):
    """Return the first n prompts and golds."""
    return prompts.prompts[:n], prompts.golds[:n]


def test_equal_tokens_are_measured_once(run, forgetful, prompts):
    """Eighteen texts that are twelve token sequences give the numbers of the twelve, bit for bit."""
    texts, golds = different(prompts, 12)
    more = prompt_set([*texts, *(f"{text}|{number}" for number, text in enumerate(texts[:6]))], [*golds, *golds[:6]])
    obtained, expected = (run(forgetful, one, samples=4) for one in (more, prompt_set(texts, golds)))
    assert obtained.answers.index.tolist() == list(range(12))
    assert np.array_equal(obtained.answers.log_probs, expected.answers.log_probs)
    comparison = compare(obtained, obtained)
    assert "6 of 18 prompts are the same tokens as others: each is measured once" in comparison.notes
    evidence = comparison.evidence
    assert (evidence.prompts, evidence.inputs, evidence.golds) == (18, 12, len(set(golds)))
    assert evidence.share == golds.count(evidence.commonest) / 12


def test_many_texts_that_are_few_inputs_are_refused(run, forgetful, prompts):
    """Eighty different prompts that are one token sequence would give intervals without width."""
    text, gold = prompts.prompts[0], prompts.golds[0]
    texts = [f"{text}|{number}" for number in range(80)]
    with pytest.raises(PromptError, match=r"at least 10 prompts .* got 80 that are 1 distinct input;"):
        run(forgetful, prompt_set(texts, [gold] * 80))


def test_golds_that_contradict_each_other_by_tokens_are_refused(run, forgetful, prompts):
    """The texts differ, what the model reads does not."""
    texts, golds = different(prompts, 12)
    with pytest.raises(PromptError, match=r"same.csv, rows 1 and 13 are one input with two golds, .*; remove one"):
        run(forgetful, prompt_set([*texts, f"{texts[0]}|"], [*golds, "Perhaps"]))


def test_shards_agree_on_which_prompt_is_measured(run, forgetful, prompts):
    """The first of the whole set is measured, not the first of a shard."""
    texts, golds = different(prompts, 12)
    twice = prompt_set([*texts, f"{texts[3]}|"], [*golds, golds[3]])
    assert run(forgetful, twice, samples=4, index=range(8, 13)).answers.index.tolist() == [8, 9, 10, 11]
    with pytest.raises(ValueError, match="repeats no earlier one"):
        run(forgetful, twice, index=[12])


def test_reference_with_one_answer_cannot_flip(reference, prompts):
    """It has nothing to flip to: the numbers would read as certain."""
    token = np.full_like(reference.answers.token, reference.answers.token[0])
    same = dataclasses.replace(reference, answers=dataclasses.replace(reference.answers, token=token))
    comparison = compare(same, same)
    (flips,) = comparison.of("flip_rate")
    assert comparison.evidence.answers == 1
    assert (flips.value, flips.reason) == (None, "the reference gives one answer to every prompt")
    assert not compare(reference, reference).evidence.lacking

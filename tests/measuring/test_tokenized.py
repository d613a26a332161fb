"""What a model cannot read of a prompt set is said by source and row, from the tokenizer alone."""

import dataclasses

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.measuring.tokenized import tokenize
from pytest_quantcheck.prompts import PromptSet
from tests.tiny_models import *  # noqa: F403 - the tokenizer


def asking(*texts):
    """Ten prompts that fit, and these in rows 20, 21, …, whose golds are all different."""
    texts = [*(f"w{number}" for number in range(10, 20)), *texts]
    rows, golds = range(10, 10 + len(texts)), tuple(map(str, range(len(texts))))
    return PromptSet("set", tuple(texts), golds, tuple(rows), "set.csv", "raw", chat=False)


def test_row_that_is_longer_than_the_context_is_named(tokenizer):
    """With both lengths; the limit itself is allowed."""
    with pytest.raises(PromptError, match=r"^set\.csv, row 21 has 4 tokens, and the model's context holds 3; shorten"):
        tokenize(tokenizer, asking("w5 w6", "w5 w6 w7"), context=3, readout="token")
    assert tokenize(tokenizer, asking("w5 w6"), context=3, readout="token").encoded[-1] == [1, 5, 6]
    assert tokenize(tokenizer, asking("w5 " * 99), context=None, readout="token").choices is None


def test_row_without_tokens_is_named(tokenizer):
    """A tokenizer without a start token makes nothing of an empty prompt."""
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    bare.backend_tokenizer.post_processor = None
    with pytest.raises(PromptError, match=r"^set\.csv, row 20 has no tokens: ' '"):
        tokenize(bare, asking(" "), context=None, readout="token")


def test_positions_of_distinct_inputs_and_the_chat_template_are_found(tokenizer):
    """The template stands around each prompt where there is one and nothing else is asked."""
    prompts = dataclasses.replace(asking("w10"), chat=None, golds=("a",) * 11)
    assert not tokenize(tokenizer, prompts, context=9, readout="token").chat
    chatting = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    chatting.chat_template = "w10 {{ messages[0]['content'] }}"
    found = tokenize(chatting, prompts, context=9, readout="token")
    assert (found.chat, found.encoded[-1], found.distinct) == (True, [10, 10], list(range(10)))

"""A prompt set as a model reads it: what is wrong with it is known before weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_quantcheck.errors import ModelError, PromptError
from pytest_quantcheck.models.encoding import answer_token, encode, render_prompts
from pytest_quantcheck.models.files import ModelFiles
from pytest_quantcheck.models.pretrained import read_tokenizer_and_context
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import REFERENCE


@dataclass(frozen=True, eq=False)
class TokenizedPrompts:
    """The token ids of a prompt set.

    `chat`: the prompts stand in the tokenizer's chat template; `encoded`: token ids of every prompt of the set;
    `distinct`: the positions of those that repeat no earlier one; `choices`: the gold answer of each token that the
    `choices` readout chooses among, None for other readouts.
    """

    chat: bool
    encoded: list[list[int]]
    distinct: list[int]
    choices: dict[int, str] | None


def tokenize(tokenizer: Any, prompts: PromptSet, *, context: int | None, readout: str) -> TokenizedPrompts:
    """Encode a prompt set for a model.

    Args:
        tokenizer: the model's.
        prompts: the set.
        context: the most tokens that the model reads; None where it does not say.
        readout: how answers are read: `token`, `choices` or `substring`.

    Raises:
        PromptError: a missing chat template; a prompt that has no tokens or more than the context; prompts that are the
            same tokens and have different golds, or fewer than ten distinct inputs of a set with repeats; golds that
            the `choices` readout cannot tell apart.
        ModelError: the tokenizer or its chat template fails.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if prompts.chat and not has_template:
        raise PromptError(
            f"{prompts.name} asks for the chat template (template {prompts.template}), and this model's tokenizer has "
            "none: take --quantcheck-template=raw or a format string"
        )
    chat = has_template if prompts.chat is None else prompts.chat
    encoded = _encode(tokenizer, prompts, chat=chat)
    for row, text, ids in zip(prompts.rows, prompts.texts, encoded, strict=True):
        if not ids:
            raise PromptError(f"{prompts.source}, row {row} has no tokens: {text[:60]!r}; remove it")
        if context is not None and len(ids) > context:
            raise PromptError(
                f"{prompts.source}, row {row} has {len(ids):,} tokens, and the model's context holds {context:,}; "
                "shorten or remove it"
            )
    distinct = prompts.choose_distinct([tuple(ids) for ids in encoded])
    choices = _choice_tokens(tokenizer, prompts, chat=chat) if readout == "choices" else None
    return TokenizedPrompts(chat, encoded, distinct, choices)


def tokenize_all(files: ModelFiles, prompt_sets: Mapping[str, PromptSet], readout: str) -> dict[str, TokenizedPrompts]:
    """Encode prompt sets for a reference whose weights are not read; errors as of `tokenize`.

    Returns them by name; none for a model that is one file, whose tokenizer is unpacked with its weights.
    """
    if files.is_one_file:
        return {}
    tokenizer, context = read_tokenizer_and_context(files, REFERENCE)
    return {
        name: tokenize(tokenizer, prompts, context=context, readout=readout) for name, prompts in prompt_sets.items()
    }


def _encode(tokenizer: Any, prompts: PromptSet, *, chat: bool) -> list[list[int]]:
    try:
        return encode(tokenizer, prompts.texts, chat=chat)
    except Exception as error:  # each library has its own, and a template can raise any
        what = "chat template" if chat else "tokenizer"
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the model's {what} cannot read the prompts of {prompts.name}: {type(error).__name__}: {text}. Check that "
            "it is the one that the model was made with"
        ) from error


def _choice_tokens(tokenizer: Any, prompts: PromptSet, *, chat: bool) -> dict[int, str]:
    """Map the first token of each gold answer to that answer."""
    (text,) = render_prompts(tokenizer, prompts.texts[:1], chat=chat)
    tokens: dict[int, str] = {}
    for gold in dict.fromkeys(prompts.golds):
        token = answer_token(tokenizer, text, gold, chat=chat)
        if token in tokens:
            raise PromptError(
                f"--quantcheck-readout=choices cannot tell {tokens[token]!r} from {gold!r} in {prompts.name}: "
                "both begin with the same token; use the token readout"
            )
        tokens[token] = gold
    if len(tokens) == 1:
        raise PromptError(
            f"--quantcheck-readout=choices needs different gold answers to choose from, and {prompts.name} has "
            f"{prompts.golds[0]!r} alone, which every model would give; use the token readout"
        )
    return tokens

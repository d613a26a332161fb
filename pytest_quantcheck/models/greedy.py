"""Greedy continuation: what a model writes after a prompt, its most probable token at each step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.encoding import Batch


def continue_greedily(model: Any, batch: Batch, most: int, *, pad: int) -> list[list[int]]:
    """Continue each prompt of a batch by its most probable tokens.

    Nothing that the checkpoint recommends for generation is applied but its end tokens: no sampling, no penalties.

    Args:
        model: a causal language model of transformers.
        batch: the prompts.
        most: the most tokens that are added to a prompt.
        pad: token id of padding.

    Returns:
        The token ids that follow each prompt, at least one; an end token is the last of them.

    Raises:
        ModelError: transformers cannot generate with this model.
    """
    ends = end_tokens(model)
    settings = GenerationConfig(
        max_new_tokens=most, do_sample=False, num_beams=1, eos_token_id=sorted(ends) or None, pad_token_id=pad
    )
    try:
        with torch.no_grad(), _nothing_recommended(model):
            written = model.generate(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=settings
            )
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"transformers cannot continue prompts with {type(model).__name__}: {type(error).__name__}: "
            f"{str(error)[:200]}; gate it without continuations: --quantcheck-continuation=0"
        ) from error
    return [up_to_end(row, ends) for row in written[:, batch.input_ids.shape[1] :].tolist()]


def end_tokens(model: Any) -> frozenset[int]:
    """Find the tokens that end a model's text: those for generation, else those of its configuration."""
    for config in (model.generation_config, model.config.get_text_config(decoder=True)):
        ends = getattr(config, "eos_token_id", None)
        if ends is not None:
            return frozenset([ends] if isinstance(ends, int) else ends)
    return frozenset()


@contextmanager
def _nothing_recommended(model: Any) -> Iterator[None]:
    """Hide a model's settings for generation: `generate` fills in from them what it is not told."""
    recommended = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = recommended


def up_to_end(tokens: list[int], ends: Collection[int]) -> list[int]:
    """Leave out what follows the first end token."""
    length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:length]

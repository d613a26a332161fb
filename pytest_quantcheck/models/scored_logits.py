"""Logits of scored tokens: a model's head runs on some of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.neurons import head_logits

_LOGITS = 2**24
"""Logits that are made at a time, about: 64 MiB in float32."""


def scored_logits(model: Any, batch: Batch, scored: Sequence[int], *, logits: int = _LOGITS) -> Iterator[torch.Tensor]:
    """Run a batch once, and yield the logits of its scored tokens.

    They come part by part: memory is bounded by `logits`, whatever the vocabulary and the number of tokens. Where the
    way from the head's input to the logits is not the one that is known, the model makes them itself, for some rows at
    a time.

    Args:
        model: a causal language model of transformers.
        batch: the sequences.
        scored: how many of each row's last positions are scored, at least one.
        logits: the most logits of a part, but at least those of one token, or of one row.

    Yields:
        (tokens, vocabulary): row after row, each from its first scored position on.
    """
    width, rows = max(scored), torch.tensor(scored)
    wanted = torch.arange(width)[None, :] >= width - rows[:, None]
    with torch.no_grad():
        hidden, last = _head_input(model, batch, width)
        vocabulary = last.shape[-1]
        if hidden is not None and torch.equal(head_logits(model, hidden[:, -1:])[:, 0], last):
            for part in torch.split(hidden[wanted.to(hidden.device)], max(logits // vocabulary, 1)):
                yield head_logits(model, part)
            return
        del hidden
        for some in torch.split(torch.arange(len(scored)), max(logits // (vocabulary * width), 1)):
            inputs = batch.select(some.tolist()).inputs()
            made = model(**inputs, logits_to_keep=width).logits[:, -width:]
            yield made[wanted[some].to(made.device)]


def _head_input(model: Any, batch: Batch, width: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Run a batch, its head on the last position alone.

    Returns what the head would be called with at the last `width` positions, (rows, width, hidden), and the logits of
    the last one, (rows, vocabulary). The first is None where the head is not called as expected.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], torch.Tensor) or args[0].dim() != 3:
            return None
        kept.append(args[0])
        return (args[0][:, -1:], *args[1:])

    head = model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(keep)
    try:
        last = model(**batch.inputs(), logits_to_keep=width).logits[:, -1]
    finally:
        if handle is not None:
            handle.remove()
    hidden = kept[0][:, -width:] if len(kept) == 1 and kept[0].shape[1] >= width else None
    return hidden, last

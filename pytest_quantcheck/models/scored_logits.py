"""Logits of scored tokens: a model's head runs on some of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.neurons import head_logits

LOGITS = 2**24
"""Logits that are made at a time, about: 64 MiB in float32."""


class ScoredPart(NamedTuple):
    """The logits (tokens, vocabulary) of some scored tokens.

    `rows` and `places` (tokens,) say which they are: the row of the batch, and which of its scored tokens.
    """

    rows: torch.Tensor
    places: torch.Tensor
    logits: torch.Tensor


def scored_logits(model: Any, batch: Batch, scored: Sequence[int], *, logits: int = LOGITS) -> Iterator[ScoredPart]:
    """Run a batch once, and yield the logits of its scored tokens.

    They come part by part: memory is bounded by `logits`, whatever the vocabulary and the number of tokens. Where the
    way from the head's input to the logits is not the one that is known, the model makes them itself, for some rows at
    a time.

    Args:
        model: a causal language model of transformers.
        batch: the sequences.
        scored: how many of each row's last positions are scored, at least one.
        logits: the most logits of a part, but at least those of one token, or of one row.
    """
    width, counts = max(scored), torch.tensor(scored)[:, None]
    wanted = torch.arange(width) >= width - counts
    with torch.no_grad():
        hidden, last = head_input(model, batch.inputs(), width)
        if hidden is None:
            parts = _own_logits(model, batch, wanted, max(logits // (last.shape[-1] * width), 1))
        else:
            parts = logits_of(model, hidden, wanted, max(logits // last.shape[-1], 1))
        for part in parts:
            yield part._replace(places=part.places - (width - counts[part.rows, 0]))


def head_input(model: Any, inputs: dict[str, Any], width: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Run a model, its head on the last position alone.

    Returns what the head would be called with at the last `width` positions, (rows, width, hidden), and the logits of
    the last one, (rows, vocabulary). The first is None where `head_logits` does not make of it what the model does.
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], torch.Tensor) or args[0].dim() != 3:
            return None
        kept.append(args[0])
        return (args[0][:, -1:].contiguous(), *args[1:])

    head = model.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(keep)
    try:
        last: torch.Tensor = model(**inputs, logits_to_keep=width).logits[:, -1]
    finally:
        if handle is not None:
            handle.remove()
    hidden = kept[0][:, -width:] if len(kept) == 1 and kept[0].shape[1] >= width else None
    known = hidden is not None and torch.equal(head_logits(model, hidden[:, -1:])[:, 0], last)
    return hidden if known else None, last


def logits_of(model: Any, hidden: torch.Tensor, wanted: torch.Tensor, n: int) -> Iterator[ScoredPart]:
    """Run a model's head on some positions, `n` at a time.

    Args:
        model: a causal language model of transformers.
        hidden: the input, (rows, positions, hidden).
        wanted: (rows, positions) bool; places are positions.
        n: positions.
    """
    where = wanted.nonzero(as_tuple=True)
    for rows, places in zip(*(torch.split(part, n) for part in where), strict=True):
        chosen = (part.to(hidden.device) for part in (rows, places))
        yield ScoredPart(rows, places, head_logits(model, hidden[tuple(chosen)]))


def _own_logits(model: Any, batch: Batch, wanted: torch.Tensor, n: int) -> Iterator[ScoredPart]:
    """Let a model make logits, of `n` rows at a time."""
    width = wanted.shape[1]
    for some in torch.split(torch.arange(len(wanted)), n):
        made = model(**batch.select(some.tolist()).inputs(), logits_to_keep=width).logits[:, -width:]
        rows, places = wanted[some].nonzero(as_tuple=True)
        yield ScoredPart(some[rows], places, made[wanted[some].to(made.device)])

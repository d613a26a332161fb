"""Prompts that were read once: what a model writes after them, and what it thinks of other tokens there."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.greedy import up_to_end
from pytest_quantcheck.models.scored_logits import LOGITS, ScoredPart, head_input, logits_of

_GOES_ON_OTHERWISE = {"git", "moshi"}
"""Types that continue what they keep as another text than the prompt, by transformers' own code."""


@dataclass(frozen=True, eq=False)
class PromptCache:
    """The keys and values of a batch of prompts.

    `logits` (prompts, vocabulary) are those of the token that follows.
    """

    model: Any
    batch: Batch
    cache: DynamicCache
    logits: torch.Tensor

    def write(self, most: int, *, ends: Collection[int], pad: int) -> list[list[int]]:
        """Continue each prompt by its most probable tokens, as `continue_greedily` does."""
        cache, logits, written = copy.deepcopy(self.cache), self.logits, []
        last = torch.tensor(sorted(ends), device=logits.device)
        ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        for _ in range(most):
            token = logits.argmax(dim=-1).masked_fill(ended, pad)
            written.append(token)
            ended |= torch.isin(token, last)
            if len(written) == most or bool(ended.all()):
                break
            inputs = self._inputs(token[:, None].to(self.batch.input_ids.device), len(written) - 1, cache)
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1]
        rows: list[list[int]] = torch.stack(written, dim=1).tolist()
        return [up_to_end(row, ends) for row in rows]

    def scored(self, written: Sequence[Sequence[int]], *, pad: int, logits: int = LOGITS) -> Iterator[ScoredPart]:
        """Yield the logits of tokens that stand after the prompts.

        It uses the cache up. `written`: after each prompt, at least one; `logits`: as of `scored_logits`.
        """
        rows = torch.arange(len(written))
        yield ScoredPart(rows, torch.zeros_like(rows), self.logits)
        read = [list(tokens[:-1]) for tokens in written]  # the last one is scored and not read
        width = max(map(len, read))
        if width:
            ids = torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens in read])
            wanted = torch.arange(width) < torch.tensor([[len(tokens)] for tokens in read])
            inputs = self._inputs(ids.to(self.batch.input_ids.device), 0, self.cache)
            hidden, last = head_input(self.model, inputs, width)
            assert hidden is not None  # or `read_prompts` had not made this
            for part in logits_of(self.model, hidden, wanted, max(logits // last.shape[-1], 1)):
                yield part._replace(places=part.places + 1)

    def _inputs(self, ids: torch.Tensor, done: int, cache: DynamicCache) -> dict[str, Any]:
        """Make the arguments for tokens (prompts, n) that follow `done` others."""
        batch, (_, n) = self.batch, ids.shape
        mask = torch.nn.functional.pad(batch.attention_mask, (0, done + n), value=1)
        lengths = torch.tensor(batch.lengths, device=ids.device)
        positions = lengths[:, None] + done + torch.arange(n, device=ids.device)
        padded = {"attention_mask": mask} if min(batch.lengths) < batch.input_ids.shape[1] else {}
        return {"input_ids": ids, "position_ids": positions, "past_key_values": cache, "use_cache": True, **padded}


def new_cache(model: Any) -> DynamicCache | None:
    """Make an empty cache; None for a model that keeps more, or cannot be told places."""
    told = {"past_key_values", "position_ids"} <= inspect.signature(model.forward).parameters.keys()
    if not told or model.config.model_type in _GOES_ON_OTHERWISE:
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    known = {DynamicLayer, DynamicSlidingWindowLayer}
    return cache if {type(layer) for layer in cache.layers} <= known else None


def read_prompts(model: Any, batch: Batch, cache: DynamicCache) -> PromptCache | torch.Tensor:
    """Read a batch once.

    Returns the logits (prompts, vocabulary) alone where the model did not take the cache, or its head is not known.
    """
    hidden, logits = head_input(model, batch.inputs() | {"use_cache": True, "past_key_values": cache}, 1)
    taken = cache.get_seq_length() == batch.input_ids.shape[1]
    return PromptCache(model, batch, cache, logits) if taken and hidden is not None else logits

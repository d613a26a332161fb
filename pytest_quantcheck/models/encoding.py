"""Prompts to token batches: padded on the left, so that the answer always comes from the last position."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_quantcheck.errors import PromptError


@dataclass(frozen=True, eq=False)
class Batch:
    """Some prompts of a prompt set as one left-padded tensor.

    `index`: their positions in the prompt set; `input_ids`, `attention_mask`, `position_ids`
    (prompts, tokens) int64; `lengths`: unpadded tokens of each.
    """

    index: tuple[int, ...]
    lengths: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor

    @property
    def real(self) -> torch.Tensor:
        """Which positions hold a token, (prompts, tokens) bool."""
        return self.attention_mask.bool()

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments for the model; the mask is left out where there is nothing to mask."""
        padded = min(self.lengths) < self.input_ids.shape[1]
        mask = {"attention_mask": self.attention_mask} if padded else {}
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "use_cache": False, **mask}


def wrapped(tokenizer: Any, texts: Sequence[str], *, chat: bool) -> list[str]:
    """Whole prompts as the model reads them: with `chat` one user turn each, and the opening of the answer."""
    return [_in_chat(tokenizer, text) for text in texts] if chat else list(texts)


def encode(tokenizer: Any, texts: Sequence[str], *, chat: bool, max_length: int | None = None) -> list[list[int]]:
    """Token ids of each prompt; special tokens are added unless the chat template brings its own.

    Raises:
        PromptError: a prompt without tokens, or longer than the model's context; names its number.
    """
    whole = wrapped(tokenizer, texts, chat=chat)
    encoded: list[list[int]] = tokenizer(whole, add_special_tokens=not chat)["input_ids"]
    for number, ids in enumerate(encoded, start=1):
        if not ids:
            raise PromptError(f"prompt {number} has no tokens: {texts[number - 1][:60]!r}; remove it")
        if max_length is not None and len(ids) > max_length:
            raise PromptError(
                f"prompt {number} has {len(ids)} tokens and the model's context holds {max_length}; "
                "shorten or remove it"
            )
    return encoded


def encoding_hash(encoded: Sequence[Sequence[int]]) -> str:
    """SHA-256 over the token ids of all prompts: what a tokenizer makes of them, however it is stored."""
    return hashlib.sha256(json.dumps([list(ids) for ids in encoded]).encode()).hexdigest()


def answer_token(tokenizer: Any, text: str, answer: str, *, chat: bool) -> int:
    """The first token of an answer written behind `text`, a whole prompt as the model reads it.

    It stands directly behind white space or a chat template, else after a blank.
    """
    written = text + (answer if chat or text[-1:].isspace() else f" {answer}")
    before, after = (tokenizer(t, add_special_tokens=not chat)["input_ids"] for t in (text, written))
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return int(after[min(same, len(after) - 1)])


def batches(
    encoded: Sequence[Sequence[int]], index: Sequence[int], batch_size: int, *, shuffle: int | None = None
) -> list[list[int]]:
    """Split the prompts `index` into batches of like length, longest first: memory trouble shows at once.

    With a seed to `shuffle` by, prompts of any length meet in a batch.
    """
    ordered = sorted(index, key=lambda i: (-len(encoded[i]), i))
    if shuffle is not None:
        random.Random(shuffle).shuffle(ordered)  # noqa: S311 - a reproducible order, not a secret
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def collate(encoded: Sequence[Sequence[int]], index: Sequence[int], *, pad: int, device: torch.device) -> Batch:
    """Pad the prompts `index` on the left to one length."""
    lengths = tuple(len(encoded[i]) for i in index)
    width = max(lengths)
    ids = torch.tensor([[pad] * (width - len(encoded[i])) + list(encoded[i]) for i in index])
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Batch(tuple(index), lengths, ids.to(device), mask.to(device), positions.to(device))


def _in_chat(tokenizer: Any, text: str) -> str:
    turn = [{"role": "user", "content": text}]
    whole: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return whole

"""Turn prompts into token batches, padded on the left: the answer comes from the last position."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """Some prompts of a prompt set as one left-padded tensor.

    `index`: the positions in the prompt set. `lengths`: number of unpadded tokens. `input_ids`, `attention_mask`,
    `position_ids`: (prompts, tokens) int64.
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

    def select(self, rows: Sequence[int]) -> Batch:
        """Make a batch of some rows, padded as they are here."""
        index, lengths = (tuple(values[row] for row in rows) for values in (self.index, self.lengths))
        tensors = (values[list(rows)] for values in (self.input_ids, self.attention_mask, self.position_ids))
        return Batch(index, lengths, *tensors)

    def inputs(self) -> dict[str, Any]:
        """Make arguments for the model, without the mask if nothing is padded."""
        padded = min(self.lengths) < self.input_ids.shape[1]
        mask = {"attention_mask": self.attention_mask} if padded else {}
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "use_cache": False, **mask}


def render_prompts(tokenizer: Any, texts: Sequence[str], *, chat: bool) -> list[str]:
    """Write prompts as the model reads them.

    With `chat` each is one user turn of the chat template, followed by the start of the answer.
    """
    return [_apply_template(tokenizer, text) for text in texts] if chat else list(texts)


def encode(tokenizer: Any, texts: Sequence[str], *, chat: bool) -> list[list[int]]:
    """Turn each prompt into token ids.

    Special tokens are added, except with `chat`: the chat template has its own.
    """
    rendered = render_prompts(tokenizer, texts, chat=chat)
    encoded: list[list[int]] = tokenizer(rendered, add_special_tokens=not chat)["input_ids"]
    return encoded


def token_texts(tokenizer: Any, tokens: Sequence[int]) -> dict[int, str]:
    """Write each token as it reads after another.

    Some tokenizers drop the space before the first one.
    """
    alone = tokenizer.batch_decode([[token] for token in tokens])
    twice = tokenizer.batch_decode([[token, token] for token in tokens])
    return {
        token: pair.removeprefix(text) if pair.startswith(text) else text
        for token, text, pair in zip(tokens, alone, twice, strict=True)
    }


def encoding_hash(encoded: Sequence[Sequence[int]]) -> str:
    """Hash the token ids of all prompts by SHA-256.

    Two tokenizers that encode the prompts alike have the same hash, whatever their files hold.
    """
    return hashlib.sha256(json.dumps([list(ids) for ids in encoded]).encode()).hexdigest()


def vocabulary_hash(tokenizer: Any) -> str:
    """Hash the tokenizer's tokens with their numbers by SHA-256.

    `[PAD97]` as token 97 is left out: GGUF files fill up a vocabulary that has fewer tokens than its model so.
    """
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0])):
        if token != f"[PAD{number}]":
            digest.update(f"{number} {token}\n".encode())
    return digest.hexdigest()


def answer_token(tokenizer: Any, text: str, answer: str, *, chat: bool) -> int:
    """Find the first token of an answer after `text`, a rendered prompt.

    The answer follows white space or a chat template directly, other text after a space.
    """
    written = text + (answer if chat or text[-1:].isspace() else f" {answer}")
    before, after = (tokenizer(t, add_special_tokens=not chat)["input_ids"] for t in (text, written))
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return int(after[min(same, len(after) - 1)])


def batches(
    encoded: Sequence[Sequence[int]], index: Sequence[int], batch_size: int, *, shuffle: int | None = None
) -> list[list[int]]:
    """Split the prompts `index` into batches of similar length.

    The longest come first, so that a lack of memory shows at once. With a seed in `shuffle` the order is random, and
    prompts of different lengths share a batch.
    """
    ordered = sorted(index, key=lambda i: (-len(encoded[i]), i))
    if shuffle is not None:
        random.Random(shuffle).shuffle(ordered)  # noqa: S311 - a reproducible order, not a secret
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def collate(
    encoded: Sequence[Sequence[int]] | Mapping[int, Sequence[int]],
    index: Sequence[int],
    *,
    pad: int,
    device: torch.device,
) -> Batch:
    """Pad the prompts `index` on the left to one length."""
    lengths = tuple(len(encoded[i]) for i in index)
    width = max(lengths)
    ids = torch.tensor([[pad] * (width - len(encoded[i])) + list(encoded[i]) for i in index])
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return Batch(tuple(index), lengths, ids.to(device), mask.to(device), positions.to(device))


def _apply_template(tokenizer: Any, text: str) -> str:
    turn = [{"role": "user", "content": text}]
    rendered: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return rendered

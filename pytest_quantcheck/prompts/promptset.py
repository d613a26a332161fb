"""Record of one prompt set."""

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.prompts.template import render
from pytest_quantcheck.text import counted

FEWEST_PROMPTS = 10
"""Fewest prompts of a set: ten calibration bins need ten prompts."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts with gold answers, in the order in which they are measured.

    The order is a seeded permutation of the source, so that the first k prompts are a random sample of it. `prompts`,
    `golds` and `rows` have one entry for each prompt.
    """

    name: str
    """A part of node ids."""
    prompts: tuple[str, ...]
    """The raw prompts."""
    golds: tuple[str, ...]
    """Gold answers without surrounding blanks."""
    rows: tuple[int, ...]
    """Rows in the source from 1: rows below the header of a CSV file, lines of a JSONL file."""
    source: str
    template: str
    """The whole template for people to read."""
    format: str | None = None
    """What `texts` applies; None when there is none, or it needed other columns and was applied while reading."""
    chat: bool | None = None
    """Wrap each text in the tokenizer's chat template (True), do not (False), or do when there is one (None)."""
    available: int = 0
    """Rows of the source, of which the set may be a sample; 0 if it is all there is."""

    def __len__(self) -> int:
        """Count the prompts."""
        return len(self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the model reads, before any chat template."""
        if self.format is None:
            return self.prompts
        return tuple(render(self.format, {"prompt": prompt}) for prompt in self.prompts)

    def first(self, n: int) -> Self:
        """Take the first n prompts: a random sample of the source."""
        return replace(self, prompts=self.prompts[:n], golds=self.golds[:n], rows=self.rows[:n])

    def template_used(self, *, chat: bool) -> str:
        """Name the template as a measurement's provenance does.

        `chat`: whether the tokenizer's chat template is used.

        >>> PromptSet("name", (), (), (), "source", "auto").template_used(chat=True)
        'chat:{prompt}'
        """
        return f"{'chat' if chat else 'raw'}:{self.format or '{prompt}'}"

    def choose_distinct(self, inputs: Sequence[Hashable]) -> list[int]:
        """Find the positions of the prompts that repeat no earlier one.

        `inputs` has one entry for each prompt: what a model reads. An input is one unit of evidence, so it is measured
        once.

        Raises:
            PromptError: equal inputs have different golds, or fewer than ten are left of a set with repeats.
        """
        first: dict[Hashable, int] = {}
        for position, model_input in enumerate(inputs):
            earlier = first.setdefault(model_input, position)
            if self.golds[earlier] != self.golds[position]:
                rows = f"{self.rows[earlier]} and {self.rows[position]}"
                golds = f"{self.golds[earlier]!r:.60} and {self.golds[position]!r:.60}"
                raise PromptError(
                    f"{self.source}, rows {rows} are one input with two golds, {golds}: one of them is wrong, or the "
                    "tokenizer does not tell the prompts apart; remove one"
                )
        if len(first) < min(len(self), FEWEST_PROMPTS):
            raise PromptError(
                f"{self.source}: expected at least {FEWEST_PROMPTS} prompts (ten calibration bins), got {len(self):,} "
                f"that are {counted(len(first), 'distinct input')}; equal prompts are no further evidence"
            )
        return list(first.values())

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides texts, golds and their order."""
        content = json.dumps([self.prompts, self.golds, self.format, self.chat])
        return hashlib.sha256(content.encode()).hexdigest()

"""Record of one prompt set."""

import hashlib
import json
from dataclasses import dataclass

from pytest_quantcheck.prompts.template import render


@dataclass(frozen=True)
class PromptSet:
    """Prompts with gold answers, in the order in which they are measured.

    `name` is a part of node ids. `prompts`, `golds` and `rows` have one entry for each prompt: the raw prompt, its
    gold answer without surrounding blanks, and its row in the source, counted from 1 (rows below the header of
    a CSV file, lines of a JSONL file). The order is a seeded permutation of the source, so that the first k
    prompts are a random sample of it. `format` is applied to each prompt by `texts`; it is None when there is
    none, or when it needed other columns and was applied while reading. `chat`: wrap each text in the tokenizer's
    chat template (True), do not (False), or do when the tokenizer has one (None). `template` is the whole
    template for people to read.
    """

    name: str
    prompts: tuple[str, ...]
    golds: tuple[str, ...]
    rows: tuple[int, ...]
    source: str
    template: str
    format: str | None = None
    chat: bool | None = None

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the model reads, before any chat template."""
        if self.format is None:
            return self.prompts
        return tuple(render(self.format, {"prompt": prompt}) for prompt in self.prompts)

    def template_used(self, *, chat: bool) -> str:
        """Return the template as a measurement's provenance names it.

        `chat`: whether the tokenizer's chat template is used.

        >>> PromptSet("name", (), (), (), "source", "auto").template_used(chat=True)
        'chat:{prompt}'
        """
        return f"{'chat' if chat else 'raw'}:{self.format or '{prompt}'}"

    @property
    def notes(self) -> tuple[str, ...]:
        """A warning if prompts repeat: intervals assume that all prompts differ."""
        n, repeated = len(self), len(self) - len(set(self.prompts))
        if not repeated:
            return ()
        return (f"{repeated:,} of {n:,} prompts repeat others and add no evidence: intervals are too narrow",)

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides texts, golds and their order."""
        content = json.dumps([self.prompts, self.golds, self.format, self.chat])
        return hashlib.sha256(content.encode()).hexdigest()

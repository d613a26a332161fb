"""The spelling of `--quantcheck-candidate`, and the checkpoint it names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.options.values import BIT_WIDTHS, parse_text


@dataclass(frozen=True)
class Released:
    """A checkpoint that was quantized before: a directory, a `.gguf` file or a hub id, and its revision there."""

    model: str
    revision: str | None = None

    def __str__(self) -> str:
        """Spell it as `parse_candidate` reads it back."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"


def parse_candidate(raw: str) -> Released:
    """Read `PATH_OR_ID[@revision]`; a path that is there is taken whole, with any `@` in it.

    >>> parse_candidate("example/model-int8@v2")
    Released(model='example/model-int8', revision='v2')
    """
    text = parse_text(raw)
    model, at, revision = text.rpartition("@")
    if not at or Path(text).expanduser().exists():
        return Released(text)
    if not (model and revision):
        raise ValueError(f"expected PATH_OR_ID[@revision], got {raw!r}")
    return Released(model, revision)


def name_candidates(released: Iterable[Released]) -> dict[str, Released]:
    """Each candidate by the name that stands in test ids.

    That is the last part of its path; the last two where several have that in common, or where it is a bit-width's.

    Raises:
        SettingsError: one checkpoint twice, or two that have their last two parts in common.
    """
    released = tuple(released)
    last = Counter(_tail(checkpoint, 1) for checkpoint in released)
    named: dict[str, Released] = {}
    for checkpoint in released:
        short = _tail(checkpoint, 1)
        name = short if last[short] == 1 and short not in BIT_WIDTHS else _tail(checkpoint, 2)
        if name in named or name in BIT_WIDTHS:
            subject = f"{named[name]} and {checkpoint} would both" if name in named else f"{checkpoint} would"
            raise SettingsError(f"--quantcheck-candidate: {subject} be called {name!r} in test ids; rename one")
        named[name] = checkpoint
    return named


def _tail(released: Released, parts: int) -> str:
    """Join the last parts of the path, for use in node ids.

    The path is made absolute, so that `.` has a name.
    """
    path = Path(released.model).expanduser()
    absolute = path.resolve() if path.exists() else PurePath(released.model)
    return re.sub(r"[^\w.+@=-]+", "-", "-".join(absolute.parts[-parts:])).strip("-")

"""Scored tokens: what a model thinks of each token that the reference wrote after a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_quantcheck.analyses.divergence import log_probs_at, token_log_probs, top_log_probs
from pytest_quantcheck.errors import NonFiniteError
from pytest_quantcheck.models.scored_logits import ScoredPart
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import ScoredTokens

SUPPORT = 64
"""Tokens of the reference's distribution that are kept at each scored token; the rest is one number."""


class ScoredCollector:
    """Collector of the scored tokens after `n` prompts, batch by batch.

    There are at most `most` after each. Memory for all is allocated with the first batch, as for answers. `reference`:
    the reference's scored tokens when a candidate is measured, None for a reference.
    """

    def __init__(self, prompts: PromptSet, n: int, most: int, *, reference: ScoredTokens | None) -> None:
        self._prompts, self._n, self._most, self.reference = prompts, n, most, reference
        self._columns: dict[str, NDArray[Any]] = {}
        self._index: list[int] = []
        self._lengths: list[int] = []

    def add(self, index: Sequence[int], written: Sequence[Sequence[int]], parts: Iterable[ScoredPart]) -> None:
        """Take one batch.

        `index`: its prompts; `written`: the tokens that are scored after each; `parts`: all their logits, in any order.
        """
        done, supports = len(self._index), self._supports(index)
        for part in parts:
            where = list(zip(part.rows.tolist(), part.places.tolist(), strict=True))
            token = torch.tensor([written[row][place] for row, place in where], device=part.logits.device)
            support = None if supports is None else torch.stack([supports[row][place] for row, place in where])
            self._keep(part.rows.numpy() + done, part.places.numpy(), _reduced(part.logits, token, support))
        self._index.extend(index)
        self._lengths.extend(map(len, written))

    def result(self) -> ScoredTokens:
        """Sort the scored tokens by the order of the prompt set.

        Raises:
            NonFiniteError: logits were NaN or infinite.
        """
        order = np.argsort(self._index)
        lengths = np.asarray(self._lengths, dtype=np.int64)[order]
        real = np.arange(self._most) < lengths[:, None]
        columns = {name: column[order][real] for name, column in self._columns.items()}
        index = np.asarray(self._index, dtype=np.int64)[order]
        self._refuse_non_finite(np.repeat(index, lengths)[~columns.pop("finite")])
        return ScoredTokens(index=index, lengths=lengths, **columns)

    def _supports(self, index: Sequence[int]) -> list[torch.Tensor] | None:
        """Look up the reference's support after each prompt, (tokens, k) each."""
        if self.reference is None:
            return None
        return [torch.from_numpy(self.reference.support[self.reference.of(i)]) for i in index]

    def _keep(self, rows: NDArray[np.intp], places: NDArray[np.intp], values: dict[str, NDArray[Any]]) -> None:
        if not self._columns:
            self._columns = {
                name: np.zeros((self._n, self._most, *value.shape[1:]), dtype=value.dtype)
                for name, value in values.items()
            }
        for name, value in values.items():
            self._columns[name][rows, places] = value

    def _refuse_non_finite(self, bad: NDArray[np.int64]) -> None:
        if len(bad):
            rows = ", ".join(str(self._prompts.rows[i]) for i in np.unique(bad)[:5])
            raise NonFiniteError(
                f"the logits of {len(bad)} scored tokens of {self._prompts.name} are NaN or infinite (first in rows "
                f"{rows}): the model overflows or its weights are damaged; nothing can be measured"
            )


def _reduced(logits: torch.Tensor, token: torch.Tensor, support: torch.Tensor | None) -> dict[str, NDArray[Any]]:
    """Reduce logits (tokens, vocabulary) to what is kept of them."""
    if support is None:
        kept, log_probs, rest = top_log_probs(logits, SUPPORT)
    else:
        kept = support.to(logits.device)
        log_probs, rest = log_probs_at(logits, kept)
    found = {
        "token": token.int(),
        "log_prob": token_log_probs(logits, token),
        "top": logits.argmax(dim=-1).int(),
        "support": kept.int(),
        "log_probs": log_probs.half(),
        "rest": rest,
        "finite": torch.isfinite(logits).all(dim=-1),
    }
    return {name: values.cpu().numpy() for name, values in found.items()}

"""Answers: which token a model gives, how sure it is of it, and whether it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_quantcheck.analyses.divergence import log_probs_at, top_log_probs
from pytest_quantcheck.errors import NonFiniteError
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Answers

SUPPORT = 1024
"""Tokens of the reference's answer distribution that are kept; the rest is one number."""


class AnswerCollector:
    """Collector of the answers to `n` prompts, batch by batch.

    Memory for all is allocated with the first batch: small tensors that outlive a batch, between large ones that do
    not, would fragment the heap, and memory would grow with every batch. `reference`: the reference's answers
    to the same prompts and more when a candidate is measured, None for a reference. `choices` are the token ids and
    golds of the `choices` readout.
    """

    def __init__(
        self,
        prompts: PromptSet,
        decode: Callable[[int], str],
        n: int,
        *,
        reference: Answers | None,
        choices: dict[int, str] | None,
        substring: bool,
    ) -> None:
        self._prompts, self._decode, self._reference, self._choices = prompts, decode, reference, choices
        self._right = _contains if substring else _Matcher(prompts.golds)
        self._n = n
        self._columns: tuple[torch.Tensor, ...] = ()
        self._index: list[int] = []
        self._n_offered = 0

    def add(self, batch: Batch, logits: torch.Tensor) -> None:
        """Take the logits (prompts, vocabulary) at the answer position of one batch."""
        logits = logits.float()
        if self._choices is None:
            answer, offered = logits.argmax(dim=-1), logits
        else:
            ids = torch.tensor(list(self._choices), device=logits.device)
            offered = logits[:, ids]
            answer = ids[offered.argmax(dim=-1)]
        chosen = offered.log_softmax(dim=-1).amax(dim=-1)
        self._n_offered = offered.shape[-1]
        support, log_probs, rest = self._partition(batch, offered)
        finite = torch.isfinite(logits).all(dim=-1)
        self._keep((answer, chosen.double().exp(), support, log_probs, rest, finite))
        self._index.extend(batch.index)

    def result(self) -> Answers:
        """Sort the answers by the order of the prompt set.

        Raises:
            NonFiniteError: a prompt's logits were NaN or infinite.
        """
        order = np.argsort(self._index)
        columns = (column[: len(order)].cpu().numpy()[order] for column in self._columns)
        token, confidence, support, log_probs, rest, finite = columns
        index = np.asarray(self._index, dtype=np.int64)[order]
        self._refuse_non_finite(index[~finite])
        return Answers(
            index=index,
            token=token,
            confidence=confidence,
            correct=np.array([self._correct(i, t) for i, t in zip(index, token, strict=True)], dtype=bool),
            support=support.astype(np.int32),
            log_probs=log_probs,
            rest=rest,
            exact=support.shape[1] == self._n_offered,
        )

    def _keep(self, values: tuple[torch.Tensor, ...]) -> None:
        if not self._columns:
            self._columns = tuple(value.new_empty(self._n, *value.shape[1:]) for value in values)
        done = len(self._index)
        for column, value in zip(self._columns, values, strict=True):
            column[done : done + len(value)] = value

    def _partition(self, batch: Batch, offered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self._choices is not None:
            tokens = torch.tensor(list(self._choices), device=offered.device).expand(offered.shape)
            return tokens, *log_probs_at(
                offered, torch.arange(offered.shape[1], device=offered.device).expand_as(tokens)
            )
        if self._reference is None:
            return top_log_probs(offered, min(SUPPORT, offered.shape[-1]))
        rows = np.searchsorted(self._reference.index, batch.index)
        tokens = torch.from_numpy(self._reference.support[rows].astype(np.int64)).to(offered.device)
        return tokens, *log_probs_at(offered, tokens)

    def _correct(self, index: int, token: int) -> bool:
        gold = self._prompts.golds[index]
        if self._choices is not None:
            return self._choices[token] == gold
        return self._right(self._decode(token).strip().casefold(), gold.strip().casefold())

    def _refuse_non_finite(self, bad: NDArray[np.int64]) -> None:
        if len(bad):
            rows = ", ".join(str(self._prompts.rows[i]) for i in bad[:5])
            raise NonFiniteError(
                f"the logits of {len(bad)} of {len(self._index)} prompts of {self._prompts.name} are NaN or infinite "
                f"(first in rows {rows}): the model overflows or its weights are damaged; nothing can be measured"
            )


class _Matcher:
    """Rule of the `token` readout: the gold answer, or a prefix of it alone, is right."""

    def __init__(self, golds: Sequence[str]) -> None:
        self._golds = {gold.strip().casefold() for gold in golds}

    def __call__(self, token: str, gold: str) -> bool:
        if token == gold:
            return True
        return bool(token) and gold.startswith(token) and sum(g.startswith(token) for g in self._golds) == 1


def _contains(token: str, gold: str) -> bool:
    """Say whether the token contains the gold answer: the paper's rule."""
    return gold in token

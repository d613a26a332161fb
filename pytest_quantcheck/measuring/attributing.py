"""The attribution pass: salient neurons of a sample of prompts, with nodes added until they have converged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..analyses.saliency import PROBE, TOLERANCE, given_up, integrated_gradients, salient
from ..models.continuation import Continuation
from ..models.encoding import Batch, collate
from ..models.loading import LoadedModel
from ..options.attribution import Attribution as Method
from ..records import Saliency
from .plan import Progress

NODES = (4, 8, 16, 32)
"""Quadrature nodes tried in turn. Where the integrand is smooth the error falls exponentially: four nodes do for
most prompts, and what 32 do not settle, 256 do not either."""

TOKENS_AT_ONCE = 1024
"""Tokens, counted over prompts and nodes, in one evaluation: bounds the memory of the backward pass."""


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One prompt's salient neurons (d,) bool with their completeness error and nodes."""

    salient: NDArray[np.bool_]
    error: float
    nodes: int


class Attributor:
    """Finds the salient neurons of one model's layers, prompt by prompt."""

    def __init__(self, loaded: LoadedModel, encoded: Sequence[Sequence[int]], method: Method) -> None:
        self._loaded, self._encoded, self._method = loaded, encoded, method

    def attribute(self, layer: int, targets: dict[int, int], progress: Progress) -> Saliency:
        """Attribute the log-probability of each prompt's target token (by position in the prompt set).

        Of a layer where too few of the first prompts converge, those prompts are all that is attributed.
        """
        index = sorted(targets)
        progress.start(f"attributing layer {layer}", len(index))
        outcomes = self._settle(layer, index[:PROBE], targets, progress)
        converged = np.array([outcome.error <= TOLERANCE for outcome in outcomes.values()])
        if self._method.nodes or not given_up(converged):
            outcomes |= self._settle(layer, index[PROBE:], targets, progress)
        progress.finish()
        return _record(outcomes, targets)

    def _settle(self, layer: int, index: list[int], targets: dict[int, int], progress: Progress) -> dict[int, _Outcome]:
        """Attribute with more and more nodes, each time those prompts that more nodes may help."""
        done: dict[int, _Outcome] = {}
        for nodes in (self._method.nodes,) if self._method.nodes else NODES:
            fresh = {
                i: outcome
                for part in self._parts(index)
                for i, outcome in self._evaluate(layer, part, targets, nodes).items()
            }
            unsettled = [i for i in index if fresh[i].error > TOLERANCE and _improves(done.get(i), fresh[i])]
            done |= fresh
            progress.advance(len(index) - len(unsettled))
            index = unsettled
        progress.advance(len(index))
        return done

    def _parts(self, index: list[int]) -> list[list[int]]:
        """Prompts of like length together, each part within the token budget at one node."""
        parts: list[list[int]] = []
        for i in sorted(index, key=lambda i: (-len(self._encoded[i]), i)):
            if parts and len(self._encoded[parts[-1][0]]) * (len(parts[-1]) + 1) <= TOKENS_AT_ONCE:
                parts[-1].append(i)
            else:
                parts.append([i])
        return parts

    def _evaluate(self, layer: int, index: list[int], targets: dict[int, int], nodes: int) -> dict[int, _Outcome]:
        loaded = self._loaded
        batch = collate(self._encoded, index, pad=loaded.tokenizer.pad_token_id, device=loaded.device)
        target = torch.tensor([targets[i] for i in index], device=loaded.device)
        path = Continuation(loaded.model, loaded.neurons, layer, batch, target)
        end = path.activations.float()
        start = torch.zeros_like(end) if self._method.baseline == "zero" else path.baseline_activations().float()
        found = integrated_gradients(path, start, end, nodes=nodes, copies=self._copies(batch))
        sets, errors = salient(found.values, batch.real).cpu().numpy(), found.error.nan_to_num(torch.inf).cpu().tolist()
        return {i: _Outcome(sets[row], errors[row], nodes) for row, i in enumerate(index)}

    def _copies(self, batch: Batch) -> int:
        return max(1, TOKENS_AT_ONCE // batch.input_ids.numel())


def _improves(before: _Outcome | None, now: _Outcome) -> bool:
    """Whether more nodes are worth it: on a smooth path doubling them far more than halves the error."""
    return before is None or now.error <= before.error / 2


def _record(outcomes: dict[int, _Outcome], targets: dict[int, int]) -> Saliency:
    index = sorted(outcomes)
    error = np.array([outcomes[i].error for i in index], dtype=np.float32)
    return Saliency(
        index=np.array(index, dtype=np.int64),
        target=np.array([targets[i] for i in index], dtype=np.int64),
        salient=np.stack([outcomes[i].salient for i in index]),
        error=error,
        nodes=np.array([outcomes[i].nodes for i in index], dtype=np.int32),
        converged=error <= TOLERANCE,
    )

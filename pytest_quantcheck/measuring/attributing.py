"""The attribution pass: salient neurons of a sample of prompts, with nodes added until they have converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_quantcheck.analyses.saliency import (
    PROBES,
    TOLERANCE,
    PathIntegral,
    Quadrature,
    gauss_legendre,
    given_up,
    integrated_gradients,
    lobatto_kronrod,
    salient,
)
from pytest_quantcheck.measuring.plan import ProgressReporter
from pytest_quantcheck.measuring.resuming import Stage, flat, under
from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.partial_forward import PartialForward, run_with_neurons
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.records import Saliency

_AGREE = 0.01
"""Nats by which a shortened path may differ from the model's own answer. On the same prompts it differs by the
rounding of float32, through LLM.int8() too; a forgotten norm, cap or scale moves it by far more."""


@dataclass(frozen=True, eq=False)
class _Attributed:
    """One prompt's salient neurons (d,) bool with their completeness error and nodes."""

    salient: NDArray[np.bool_]
    error: float
    nodes: int


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found so far, by layer and prompt; prompts that are done have no outcome where no layer was left."""

    outcomes: dict[int, dict[int, _Attributed]]
    done: set[int]

    @classmethod
    def of(cls, layers: Sequence[int], state: Mapping[str, NDArray[Any]] | None) -> _Found:
        """Nothing yet, or what `state` returned."""
        if state is None:
            return cls({layer: {} for layer in layers}, set())
        return cls({layer: _to_outcomes(under(state, str(layer))) for layer in layers}, set(state["done"].tolist()))

    def add(self, part: list[int], found: dict[int, list[_Attributed]]) -> None:
        """Take the outcomes of some more prompts."""
        for layer, outcomes in found.items():
            self.outcomes[layer] |= zip(part, outcomes, strict=True)
        self.done.update(part)

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays."""
        layers = {str(layer): _to_arrays(outcomes) for layer, outcomes in self.outcomes.items()}
        return {"done": np.array(sorted(self.done), dtype=np.int64)} | flat(layers)


def _to_arrays(outcomes: dict[int, _Attributed]) -> dict[str, NDArray[Any]]:
    """One layer's outcomes: `index`, `salient`, `error`, `nodes`, a row for each prompt."""
    return {
        "index": np.array(list(outcomes), dtype=np.int64),
        "salient": np.array([found.salient for found in outcomes.values()], dtype=np.bool_),
        "error": np.array([found.error for found in outcomes.values()], dtype=np.float64),
        "nodes": np.array([found.nodes for found in outcomes.values()], dtype=np.int64),
    }


def _to_outcomes(arrays: Mapping[str, NDArray[Any]]) -> dict[int, _Attributed]:
    rows = zip(arrays["salient"], arrays["error"].tolist(), arrays["nodes"].tolist(), strict=True)
    return {i: _Attributed(*row) for i, row in zip(arrays["index"].tolist(), rows, strict=True)}


class Attributor:
    """Finds the salient neurons of one model's layers, some prompts at a time and all layers of them together.

    `tokens`: counted over prompts and nodes, in one evaluation; bounds the memory of the backward pass, and that
    of what is kept of a forward pass for all layers. `tolerance`: relative completeness error that is small enough.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        encoded: Sequence[Sequence[int]],
        method: AttributionMethod,
        *,
        tokens: int = 1024,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._loaded, self._encoded, self._method = loaded, encoded, method
        self._tokens, self._tolerance = tokens, tolerance
        self._rule = gauss_legendre(method.nodes) if method.nodes else lobatto_kronrod()
        self._baseline: dict[int, torch.Tensor] = {}

    def attribute(
        self, layers: Sequence[int], targets: dict[int, int], progress: ProgressReporter, stage: Stage | None = None
    ) -> dict[int, Saliency]:
        """Attribute the log-probability of each prompt's target token (by position in the prompt set).

        Of a layer where too few of the first prompts converge, those prompts are all that is attributed. What `stage`
        has kept is not done again.
        """
        index, stage = sorted(targets), stage or Stage("attribution")
        self._baseline = self._baselines(layers, max(len(self._encoded[i]) for i in index))
        found = _Found.of(layers, stage.load())
        progress.start("attributing", len(index), len(found.done))
        for first, last in pairwise((0, *PROBES, max(len(index), *PROBES))):
            left = [layer for layer in layers if not self._hopeless(found.outcomes[layer], index[:first], len(index))]
            for part in self._parts(index[first:last]):
                if not found.done.issuperset(part):
                    found.add(part, self._run(left, part, targets))
                    progress.advance(len(part))
                    stage.save(found.state)
        progress.finish()
        return {layer: _record(outcomes, targets, self._tolerance) for layer, outcomes in found.outcomes.items()}

    def _run(self, layers: Sequence[int], part: list[int], targets: dict[int, int]) -> dict[int, list[_Attributed]]:
        passage = self._passage(layers, part, targets) if layers else None
        return {} if passage is None else {layer: self._outcomes(passage, layer) for layer in layers}

    def _parts(self, index: list[int]) -> list[list[int]]:
        """Prompts of like length together, each part within the token budget at one node."""
        parts: list[list[int]] = []
        for i in sorted(index, key=lambda i: (-len(self._encoded[i]), i)):
            if parts and len(self._encoded[parts[-1][0]]) * (len(parts[-1]) + 1) <= self._tokens:
                parts[-1].append(i)
            else:
                parts.append([i])
        return parts

    def _passage(self, layers: Sequence[int], index: list[int], targets: dict[int, int]) -> PartialForward:
        loaded = self._loaded
        batch = collate(self._encoded, index, pad=loaded.tokenizer.pad_token_id, device=loaded.device)
        target = torch.tensor([targets[i] for i in index], device=loaded.device)
        return PartialForward(loaded.model, loaded.neurons, layers, batch, target)

    def _outcomes(self, passage: PartialForward, layer: int) -> list[_Attributed]:
        start = passage.start(layer, self._baseline.get(layer))
        values, found = attributions(
            passage, layer, start, rule=self._rule, tolerance=self._tolerance, at_once=self._tokens // start.shape[1]
        )
        sets = salient(values, passage.real).cpu().numpy()
        quality = zip(found.error.tolist(), found.nodes.tolist(), strict=True)
        return [_Attributed(row, error, nodes) for row, (error, nodes) in zip(sets, quality, strict=True)]

    def _hopeless(self, outcomes: dict[int, _Attributed], first: list[int], planned: int) -> bool:
        """Whether a layer is left after its first prompts; later ones, of a run that died, must not count."""
        converged = [outcomes[i].error <= self._tolerance for i in first if i in outcomes]
        return not self._method.nodes and given_up(np.array(converged), planned)

    def _baselines(self, layers: Sequence[int], length: int) -> dict[int, torch.Tensor]:
        """The layers' neurons (length, d) on a sequence of token id 0; none where the path starts at zero."""
        if self._method.baseline == "zero":
            return {}
        loaded = self._loaded
        zeros = collate([[0] * length], [0], pad=0, device=loaded.device)
        return {
            layer: neurons[0]
            for layer, neurons in run_with_neurons(loaded.model, loaded.neurons, layers, zeros)[0].items()
        }


def attributions(
    passage: PartialForward, layer: int, start: torch.Tensor, *, rule: Quadrature, tolerance: float, at_once: int
) -> tuple[torch.Tensor, PathIntegral]:
    """Attributions (prompts, tokens, d) of a layer's neurons, nats, by the shortest path that gives the model's answer.

    `start` (prompts, tokens, d): where the path starts; the rest as in `integrated_gradients`.
    """
    for path in passage.paths(layer, start):
        found = integrated_gradients(
            path.log_probs, path.start, path.end, rule=rule, tolerance=tolerance, at_once=at_once
        )
        if path.whole or bool(((found.at_end - passage.log_probs).abs() < _AGREE).all()):
            break
    return path.pull_back(found.gradient) * (passage.neurons[layer] - start), found


def _record(outcomes: dict[int, _Attributed], targets: dict[int, int], tolerance: float) -> Saliency:
    index = sorted(outcomes)
    error = np.array([outcomes[i].error for i in index], dtype=np.float32)
    return Saliency(
        index=np.array(index, dtype=np.int64),
        target=np.array([targets[i] for i in index], dtype=np.int64),
        salient=np.stack([outcomes[i].salient for i in index]),
        error=error,
        nodes=np.array([outcomes[i].nodes for i in index], dtype=np.int32),
        converged=error <= tolerance,
    )

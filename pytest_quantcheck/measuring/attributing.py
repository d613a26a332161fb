"""The attribution pass: salient neurons of a sample of prompts, with nodes added until convergence."""

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
from pytest_quantcheck.models.partial_forward import PartialForward
from pytest_quantcheck.models.watching import run_with_neurons
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.records import Saliency


@dataclass(frozen=True, eq=False)
class _Attributed:
    """One prompt's salient neurons (d,) bool with their completeness error and nodes."""

    salient: NDArray[np.bool_]
    error: float
    nodes: int


@dataclass(frozen=True, eq=False)
class _Outcomes:
    """Outcomes so far, by layer and prompt. Prompts that are done have no outcome at layers that were given up."""

    outcomes: dict[int, dict[int, _Attributed]]
    done: set[int]

    @classmethod
    def of(cls, layers: Sequence[int], state: Mapping[str, NDArray[Any]] | None) -> _Outcomes:
        """Begin with no outcomes, or with those that `state` returned."""
        if state is None:
            return cls({layer: {} for layer in layers}, set())
        return cls({layer: _to_outcomes(under(state, str(layer))) for layer in layers}, set(state["done"].tolist()))

    def add(self, part: list[int], outcomes_by_layer: dict[int, list[_Attributed]]) -> None:
        """Add the outcomes of some more prompts."""
        for layer, outcomes in outcomes_by_layer.items():
            self.outcomes[layer] |= zip(part, outcomes, strict=True)
        self.done.update(part)

    def state(self) -> dict[str, NDArray[Any]]:
        """Turn all outcomes into arrays."""
        layers = {str(layer): _to_arrays(outcomes) for layer, outcomes in self.outcomes.items()}
        return {"done": np.array(sorted(self.done), dtype=np.int64)} | flat(layers)


def _to_arrays(outcomes: dict[int, _Attributed]) -> dict[str, NDArray[Any]]:
    """Turn one layer's outcomes into arrays with a row for each prompt."""
    return {
        "index": np.array(list(outcomes), dtype=np.int64),
        "salient": np.array([outcome.salient for outcome in outcomes.values()], dtype=np.bool_),
        "error": np.array([outcome.error for outcome in outcomes.values()], dtype=np.float64),
        "nodes": np.array([outcome.nodes for outcome in outcomes.values()], dtype=np.int64),
    }


def _to_outcomes(arrays: Mapping[str, NDArray[Any]]) -> dict[int, _Attributed]:
    rows = zip(arrays["salient"], arrays["error"].tolist(), arrays["nodes"].tolist(), strict=True)
    return {i: _Attributed(*row) for i, row in zip(arrays["index"].tolist(), rows, strict=True)}


class Attributor:
    """Attribution of one model: some prompts at a time, at all layers together.

    `tokens`: tokens in one evaluation, counted over prompts and nodes; bounds the memory of the backward pass, and of
    what a forward pass keeps for all layers. `tolerance`: relative completeness error up to which a prompt converged.
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
        """Attribute the log-probability of each prompt's target token.

        `targets` is by position in the prompt set. A layer where too few of the first prompts converge is given up
        after them. What `stage` has saved is not done again.
        """
        index, stage = sorted(targets), stage or Stage("attribution")
        self._baseline = self._baselines(layers, max(len(self._encoded[i]) for i in index))
        results = _Outcomes.of(layers, stage.load())
        progress.start("attributing", len(index), len(results.done))
        for first, last in pairwise((0, *PROBES, max(len(index), *PROBES))):
            # leave out the layers that are given up after the first prompts
            left = [layer for layer in layers if not self._hopeless(results.outcomes[layer], index[:first], len(index))]
            for part in self._parts(index[first:last]):
                if not results.done.issuperset(part):
                    results.add(part, self._run(left, part, targets))
                    progress.advance(len(part))
                    stage.save(results.state)
        progress.finish()
        return {layer: _to_saliency(outcomes, targets, self._tolerance) for layer, outcomes in results.outcomes.items()}

    def _run(self, layers: Sequence[int], part: list[int], targets: dict[int, int]) -> dict[int, list[_Attributed]]:
        passage = self._passage(layers, part, targets) if layers else None
        return {} if passage is None else {layer: self._outcomes(passage, layer) for layer in layers}

    def _parts(self, index: list[int]) -> list[list[int]]:
        """Split prompts by length into parts within the token budget."""
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
        values, integral = attributions(
            passage, layer, start, rule=self._rule, tolerance=self._tolerance, at_once=self._tokens // start.shape[1]
        )
        sets = torch.cat([salient(*prompt) for prompt in passage.each_prompt(layer, values)]).cpu().numpy()
        quality = zip(integral.error.tolist(), integral.nodes.tolist(), strict=True)
        return [_Attributed(row, error, nodes) for row, (error, nodes) in zip(sets, quality, strict=True)]

    def _hopeless(self, outcomes: dict[int, _Attributed], first: list[int], planned: int) -> bool:
        """Say whether a layer is given up after its first prompts; later ones of a resumed run do not count."""
        converged = [outcomes[i].error <= self._tolerance for i in first if i in outcomes]
        return not self._method.nodes and given_up(np.array(converged), planned)

    def _baselines(self, layers: Sequence[int], length: int) -> dict[int, torch.Tensor]:
        """Run a sequence of token id 0; keep each layer's neurons.

        Each is (length, d). There are none where the path starts at zero.
        """
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
    """Attribute a layer's neurons; return the attributions and the path integral.

    They are (prompts, tokens, d), in nats, by the shortest path through the model that gives its own answer.

    Args:
        passage: the model's forward pass over the prompts.
        layer: the layer.
        start: (prompts, tokens, d), where the path starts.
        rule: as in `integrated_gradients`, like the rest.
        tolerance: relative completeness error up to which a prompt is done.
        at_once: rows in one evaluation.
    """
    path = next(passage.paths(layer, start))
    integral = integrated_gradients(
        path.log_probs, path.start, path.end, rule=rule, tolerance=tolerance, at_once=at_once
    )
    return path.pull_back(integral.gradient) * (passage.neurons[layer] - start), integral


def _to_saliency(outcomes: dict[int, _Attributed], targets: dict[int, int], tolerance: float) -> Saliency:
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

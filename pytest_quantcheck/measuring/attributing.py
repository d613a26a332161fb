"""The attribution pass: salient neurons of a sample of prompts, with nodes added until convergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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


class Attributor:
    """Attribution of one model: some prompts at a time, at all layers together.

    `tokens`: tokens in one evaluation, counted over prompts and nodes; bounds the memory of the backward pass, and of
    what a forward pass keeps for all layers. `tolerance`: relative completeness error up to which a prompt converged.
    `recompute`: as of `PartialForward`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        encoded: Sequence[Sequence[int]],
        method: AttributionMethod,
        *,
        tokens: int = 1024,
        tolerance: float = TOLERANCE,
        recompute: bool = False,
    ) -> None:
        self._loaded, self._encoded, self._method = loaded, encoded, method
        self._tokens, self._tolerance, self._recompute = tokens, tolerance, recompute
        self._rule = gauss_legendre(method.nodes) if method.nodes else lobatto_kronrod()
        self._baseline: dict[int, torch.Tensor] = {}

    def attribute(
        self, layers: Sequence[int], targets: dict[int, int], progress: ProgressReporter, *, probe: bool = True
    ) -> dict[int, Saliency]:
        """Attribute the log-probability of each prompt's target token.

        `targets` is by position in the prompt set. With `probe` a layer where too few of the first prompts converge is
        given up after them.
        """
        index = sorted(targets)
        self._baseline = self._baselines(layers, max(len(self._encoded[i]) for i in index))
        outcomes: dict[int, dict[int, _Attributed]] = {layer: {} for layer in layers}
        for first, last in pairwise((0, *(PROBES if probe else ()), max(len(index), *PROBES))):
            hopeless = frozenset(layer for layer in layers if self._hopeless(outcomes[layer], len(index)))
            if probe and first == PROBES[-1]:
                progress.decided(hopeless)
            left = [layer for layer in layers if layer not in hopeless]
            for part in self._parts(index[first:last]):
                if left:
                    passage = self._passage(left, part, targets)
                    for layer in left:
                        outcomes[layer] |= zip(part, self._outcomes(passage, layer), strict=True)
                progress.advance(len(part))
        return {layer: _to_saliency(found, targets, self._tolerance) for layer, found in outcomes.items()}

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
        return PartialForward(loaded.model, loaded.neurons, layers, batch, target, recompute=self._recompute)

    def _outcomes(self, passage: PartialForward, layer: int) -> list[_Attributed]:
        start = passage.start(layer, self._baseline.get(layer))
        values, integral = attributions(
            passage, layer, start, rule=self._rule, tolerance=self._tolerance, at_once=self._tokens // start.shape[1]
        )
        sets = torch.cat([salient(*prompt) for prompt in passage.each_prompt(layer, values)]).cpu().numpy()
        quality = zip(integral.error.tolist(), integral.nodes.tolist(), strict=True)
        return [_Attributed(row, error, nodes) for row, (error, nodes) in zip(sets, quality, strict=True)]

    def _hopeless(self, outcomes: dict[int, _Attributed], planned: int) -> bool:
        """Say whether a layer is given up after its first prompts."""
        converged = [outcomes[i].error <= self._tolerance for i in sorted(outcomes)]
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

"""Linear modules inside a block, as views that can be written to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.architectures import FFNS, FfnNames
from pytest_quantcheck.models.experts import find_mixture
from pytest_quantcheck.models.loaded import LoadedModel


@dataclass(frozen=True, eq=False)
class Projection:
    """A matrix in a parameter: a linear module's, some rows of it, or one expert's.

    Writing into `weight` and `bias` alters the model.

    `index`: its place in a parameter that holds several, such as those of all experts; `transposed`: the parameter has
    (in, out); `rows`: those that belong to it.
    """

    name: str
    parameter: nn.Parameter
    bias_parameter: nn.Parameter | None = None
    index: tuple[int, ...] = ()
    transposed: bool = False
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def weight(self) -> torch.Tensor:
        """A view (out, in)."""
        data = self.parameter.data[self.index]
        return (data.t() if self.transposed else data)[self.rows]

    @property
    def bias(self) -> torch.Tensor | None:
        """A view (out,); None without bias."""
        return None if self.bias_parameter is None else self.bias_parameter.data[self.index][self.rows]


@dataclass(frozen=True, eq=False)
class Ffn:
    """The projections around the neurons of one FFN.

    `gate` feeds the activation function. `up` is multiplied with the function's output; None where nothing is. `down`
    has a column for each neuron. `product`: the output is linear in `up`; gpt-oss limits it and adds 1.
    `share`: of the tokens that it gets, as far as the model's shape says; an expert gets a part.
    """

    gate: Projection
    up: Projection | None
    down: Projection
    product: bool = True
    share: float = 1.0

    @property
    def inward(self) -> tuple[Projection, ...]:
        """Projections that have a row for each neuron."""
        return (self.gate,) if self.up is None else (self.gate, self.up)

    @property
    def whole(self) -> tuple[Projection, ...]:
        """The matrices as they are stored: gate and up as one where they are fused."""
        stored = {
            (id(part.parameter), part.index): replace(part, rows=slice(None)) for part in (*self.inward, self.down)
        }
        return tuple(stored.values())

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return len(self.gate.weight)


def refuse_packed(loaded: LoadedModel) -> None:
    """Raise NotApplicable for a quantized model: its weights are packed."""
    if loaded.quantization is not None:
        method = loaded.quantization.get("quant_method", loaded.bits)
        raise NotApplicable(f"the model is quantized ({method}): only plain float weights can be altered")


def every_projection(loaded: LoadedModel) -> list[Projection]:
    """List every linear module of every block, without output head and embedding.

    Raises:
        NotApplicable: there is none.
    """
    projections = [projection for block in loaded.neurons.blocks for projection in _projections(block)]
    if not projections:
        raise NotApplicable("no layer has a linear module of a known kind")
    return projections


def projections_of(loaded: LoadedModel, layer: int) -> list[Projection]:
    """List every linear module of one layer's block.

    Raises:
        NotApplicable: there is none.
    """
    projections = _projections(loaded.neurons.blocks[layer])
    if not projections:
        raise NotApplicable(f"layer {layer} has no linear module of a known kind")
    return projections


def every_ffn(loaded: LoadedModel) -> list[Ffn]:
    """List the FFNs of all layers that have a known layout; of a mixture those of all experts.

    Raises:
        NotApplicable: none has.
    """
    return [ffn for ffns in ffns_by_layer(loaded) for ffn in ffns]


def ffns_by_layer(loaded: LoadedModel) -> list[list[Ffn]]:
    """List the FFNs of known layouts, layer by layer.

    Raises:
        NotApplicable: none has.
    """
    found = [ffns for block in loaded.neurons.blocks if (ffns := _ffns(block, loaded.neurons.traced))]
    if not found:
        raise NotApplicable(f"no layer has an FFN of a known layout ({_known_layouts()})")
    return found


def ffns_of(loaded: LoadedModel, layer: int) -> list[Ffn]:
    """List the FFNs of one layer: one, or those of a mixture's experts.

    Raises:
        NotApplicable: their layout is not known.
    """
    ffns = _ffns(loaded.neurons.blocks[layer], loaded.neurons.traced)
    if not ffns:
        raise NotApplicable(f"layer {layer} has no FFN of a known layout ({_known_layouts()})")
    return ffns


def _known_layouts() -> str:
    return ", ".join(map(str, FFNS))


def _projections(block: nn.Module) -> list[Projection]:
    linear = [_of_linear(name, module) for name, module in block.named_modules() if _is_linear(module)]
    return linear + [projection for ffn in _expert_ffns(block) for projection in ffn.whole]


def _of_linear(name: str, module: Any) -> Projection:
    return Projection(name, module.weight, module.bias, transposed=_is_conv1d(module))


def _ffns(block: nn.Module, traced: FfnNames | None) -> list[Ffn]:
    """List a block's FFNs: that of a dense block, or the shared one and those of the routed experts."""
    linear = {name: _of_linear(name, module) for name, module in block.named_modules() if _is_linear(module)}
    layouts = [traced] if traced else [*FFNS]
    layouts += [names.inside(module) for names in layouts for module in ("shared_expert", "shared_experts")]
    found = [_views(linear, names) for names in layouts if linear.keys() >= set(filter(None, names))]
    return [*found[:1], *_expert_ffns(block)]


def _views(linear: dict[str, Projection], names: FfnNames) -> Ffn:
    gate, up, down = linear[names.gate], linear[names.up] if names.up else None, linear[names.down]
    if names.gate == names.up:
        gate, up = _halves(gate)
    return Ffn(gate, up, down)


def _expert_ffns(block: nn.Module) -> list[Ffn]:
    """List the FFNs of a block's routed experts."""
    mixture = find_mixture(block)
    if mixture is None:
        return []
    experts, share = mixture.experts, (mixture.per_token or mixture.n_experts) / mixture.n_experts
    inward = "gate_up_proj" if hasattr(experts, "gate_up_proj") else "up_proj"
    transposed = getattr(experts, "is_transposed", True)  # Llama 4's say nothing, and are

    def projection(name: str, expert: int) -> Projection:
        bias = getattr(experts, f"{name}_bias", None)
        path = f"{mixture.name}.{name}.{expert}"
        return Projection(path, getattr(experts, name), bias, index=(expert,), transposed=transposed)

    ffns = []
    for expert in range(mixture.n_experts):
        gate, down = projection(inward, expert), projection("down_proj", expert)
        if inward == "gate_up_proj":
            halves = _halves(gate, interleaved=not getattr(experts, "is_concatenated", True))
            ffns.append(Ffn(*halves, down, product=mixture.function is not None, share=share))
        else:
            ffns.append(Ffn(gate, None, down, share=share))
    return ffns


def _halves(fused: Projection, *, interleaved: bool = False) -> tuple[Projection, Projection]:
    """Divide a fused projection into gate and up projection."""
    half = len(fused.weight) // 2
    rows = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))
    gate, up = (replace(fused, rows=part) for part in rows)
    return gate, up


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """Recognise GPT-2's Conv1D by name: importing the class costs as much as all of transformers."""
    return type(module).__name__ == "Conv1D"

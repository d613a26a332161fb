"""Linear modules inside a block, as views that can be written to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.architectures import ARCHITECTURES, FfnNames
from pytest_quantcheck.models.loaded import LoadedModel


@dataclass(frozen=True, eq=False)
class Projection:
    """Some rows of a linear module.

    Writing into `weight` and `bias` alters the model.
    """

    name: str
    module: Any
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def weight(self) -> torch.Tensor:
        """A view (out, in), also of GPT-2's Conv1D, which stores (in, out)."""
        data: torch.Tensor = self.module.weight.data
        return (data.t() if _is_conv1d(self.module) else data)[self.rows]

    @property
    def bias(self) -> torch.Tensor | None:
        """A view (out,); None without bias."""
        return None if self.module.bias is None else self.module.bias.data[self.rows]


@dataclass(frozen=True, eq=False)
class Ffn:
    """The projections around one layer's neurons.

    `gate` feeds the activation function. `up` is multiplied with the function's output; None where nothing is. `down`
    has a column for each neuron.
    """

    gate: Projection
    up: Projection | None
    down: Projection

    @property
    def inward(self) -> tuple[Projection, ...]:
        """Projections that have a row for each neuron."""
        return (self.gate,) if self.up is None else (self.gate, self.up)

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
    """List the FFNs of all layers that have a known layout.

    Raises:
        NotApplicable: none has.
    """
    ffns = [ffn for ffn in map(_ffn, loaded.neurons.blocks) if ffn is not None]
    if not ffns:
        raise NotApplicable(f"no layer has an FFN of a known layout ({_known_layouts()})")
    return ffns


def ffn_of(loaded: LoadedModel, layer: int) -> Ffn:
    """Find the FFN of one layer.

    Raises:
        NotApplicable: its layout is not known.
    """
    ffn = _ffn(loaded.neurons.blocks[layer])
    if ffn is None:
        raise NotApplicable(f"layer {layer} has no FFN of a known layout ({_known_layouts()})")
    return ffn


def _known_layouts() -> str:
    return ", ".join(str(names) for architecture in ARCHITECTURES for names in architecture.ffn)


def _projections(block: nn.Module) -> list[Projection]:
    return [Projection(name, module) for name, module in block.named_modules() if _is_linear(module)]


def _ffn(block: nn.Module) -> Ffn | None:
    linear = {projection.name: projection for projection in _projections(block)}
    layouts = (names for architecture in ARCHITECTURES for names in architecture.ffn)
    return next((_views(linear, names) for names in layouts if linear.keys() >= set(filter(None, names))), None)


def _views(linear: dict[str, Projection], names: FfnNames) -> Ffn:
    gate, up, down = linear[names.gate], linear[names.up] if names.up else None, linear[names.down]
    if names.gate == names.up:
        half = len(gate.weight) // 2
        gate, up = (Projection(gate.name, gate.module, rows) for rows in (slice(half), slice(half, None)))
    return Ffn(gate, up, down)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """Recognise GPT-2's Conv1D by name: importing the class costs as much as all of transformers."""
    return type(module).__name__ == "Conv1D"

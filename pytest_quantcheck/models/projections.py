"""The linear maps inside a block, as views that can be written to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.loading import LoadedModel

_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # Llama, Mistral, Qwen2/3, SmolLM, Gemma
_FUSED = ("mlp.gate_up_proj", "mlp.down_proj")  # Phi-3: the rows of the gate, then those of the up projection
_UNGATED = (
    ("mlp.fc1", "mlp.fc2"),  # Phi
    ("mlp.c_fc", "mlp.c_proj"),  # GPT-2
    ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),  # GPT-NeoX, Bloom
    ("fc1", "fc2"),  # OPT
)


@dataclass(frozen=True, eq=False)
class Projection:
    """Some rows of a linear module; writing into `weight` and `bias` alters the model."""

    name: str
    module: Any
    rows: slice = field(default_factory=lambda: slice(None))

    @property
    def weight(self) -> torch.Tensor:
        """A view (out, in), whichever way the module stores it: GPT-2's Conv1D has inputs first."""
        data: torch.Tensor = self.module.weight.data
        return (data.t() if _is_conv1d(self.module) else data)[self.rows]

    @property
    def bias(self) -> torch.Tensor | None:
        """A view (out,); None without bias."""
        return None if self.module.bias is None else self.module.bias.data[self.rows]


@dataclass(frozen=True, eq=False)
class Ffn:
    """The projections around one layer's neurons.

    `gate` feeds the activation function, `up` what its output is multiplied by (None where nothing is), `down`
    has a column for each neuron.
    """

    gate: Projection
    up: Projection | None
    down: Projection

    @property
    def inward(self) -> tuple[Projection, ...]:
        """Those that have a row for each neuron."""
        return (self.gate,) if self.up is None else (self.gate, self.up)

    @property
    def neurons(self) -> int:
        """How many there are."""
        return len(self.gate.weight)


def refuse_packed(loaded: LoadedModel) -> None:
    """Raise NotApplicable for a quantized model: its weights are packed in a format of its own."""
    if loaded.quantization is not None:
        method = loaded.quantization.get("quant_method", loaded.bits)
        raise NotApplicable(f"the model is quantized ({method}): only plain float weights can be altered")


def every_projection(loaded: LoadedModel) -> list[Projection]:
    """Every linear map of every block; output head and embedding are none of them.

    Raises:
        NotApplicable: there is none.
    """
    found = [projection for block in loaded.neurons.blocks for projection in _projections(block)]
    if not found:
        raise NotApplicable("no layer has a linear map of a known kind")
    return found


def projections_of(loaded: LoadedModel, layer: int) -> list[Projection]:
    """Every linear map of one layer's block.

    Raises:
        NotApplicable: there is none.
    """
    found = _projections(loaded.neurons.blocks[layer])
    if not found:
        raise NotApplicable(f"layer {layer} has no linear map of a known kind")
    return found


def every_ffn(loaded: LoadedModel) -> list[Ffn]:
    """The FFN of every layer that has one of a known layout.

    Raises:
        NotApplicable: none has.
    """
    found = [ffn for ffn in map(_ffn, loaded.neurons.blocks) if ffn is not None]
    if not found:
        raise NotApplicable(f"no layer has an FFN of a known layout ({_known()})")
    return found


def ffn_of(loaded: LoadedModel, layer: int) -> Ffn:
    """The FFN of one layer.

    Raises:
        NotApplicable: its layout is not known.
    """
    found = _ffn(loaded.neurons.blocks[layer])
    if found is None:
        raise NotApplicable(f"layer {layer} has no FFN of a known layout ({_known()})")
    return found


def _known() -> str:
    return ", ".join(" ".join(names) for names in (_GATED, _FUSED, *_UNGATED))


def _projections(block: nn.Module) -> list[Projection]:
    return [Projection(name, module) for name, module in block.named_modules() if _is_linear(module)]


def _ffn(block: nn.Module) -> Ffn | None:
    linear = {projection.name: projection for projection in _projections(block)}
    if linear.keys() >= set(_GATED):
        gate, up, down = (linear[name] for name in _GATED)
        return Ffn(gate, up, down)
    if linear.keys() >= set(_FUSED):
        both, down = (linear[name] for name in _FUSED)
        half = len(both.weight) // 2
        gate, up = (Projection(both.name, both.module, rows) for rows in (slice(half), slice(half, None)))
        return Ffn(gate, up, down)
    pair = next((names for names in _UNGATED if linear.keys() >= set(names)), None)
    return None if pair is None else Ffn(linear[pair[0]], None, linear[pair[1]])


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """By its name: importing the class costs as much as all of transformers."""
    return type(module).__name__ == "Conv1D"

"""Where the FFN neurons of a causal language model live, and what comes after its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError


@dataclass(frozen=True)
class Family:
    """Module paths of one way to lay out a decoder: `{}` stands for the block's number."""

    activation: str
    tail: tuple[str, ...]

    @property
    def blocks(self) -> str:
        """Path of the list of blocks."""
        return self.activation.split(".{}", maxsplit=1)[0]


_FAMILIES = (
    Family("model.layers.{}.mlp.act_fn", ("model.norm",)),  # Llama, Mistral, Qwen2/3, SmolLM, Gemma
    Family("model.layers.{}.mlp.activation_fn", ("model.final_layernorm", "model.norm")),  # Phi, Phi-3
    Family("transformer.h.{}.mlp.act", ("transformer.ln_f",)),  # GPT-2
    Family("gpt_neox.layers.{}.mlp.act", ("gpt_neox.final_layer_norm",)),
    Family("model.decoder.layers.{}.activation_fn", ("model.decoder.final_layer_norm", "model.decoder.project_out")),
)

_RECTIFIED = ("relu", "relu2", "relusquared", "reluactivation")


@dataclass(frozen=True)
class Neurons:
    """The blocks of one model and the module whose output is each block's neurons.

    `tail` holds the modules between the last block and the output head, in order; it is None when the layout
    was named by the user and is not known. `last_ffn` is the last block's FFN where that is a module of its own.
    """

    blocks: tuple[nn.Module, ...]
    activations: tuple[nn.Module | None, ...]
    tail: tuple[nn.Module, ...] | None
    last_ffn: nn.Module | None = None

    def activation(self, layer: int) -> nn.Module:
        """The module whose output, `(..., neurons)`, is this layer's neurons."""
        module = self.activations[layer]
        if module is None:
            raise ModelError(
                f"layer {layer} has no FFN activation where the other layers have one (a mixture of experts?); "
                "measure other layers with --quantcheck-layers, or point at the module with --quantcheck-neurons"
            )
        return module

    def rectified(self, layer: int) -> bool:
        """Whether this layer's activation function is of the ReLU family: exactly 0 when off."""
        return type(self.activation(layer)).__name__.lower() in _RECTIFIED


def find_neurons(model: nn.Module, pattern: str | None = None) -> Neurons:
    """Find the activation function of each block's FFN.

    Args:
        model: a causal language model of transformers.
        pattern: path of the activation module with `{}` for the block's number, such as
            `model.layers.{}.mlp.act_fn`; None tries the layouts that are known.

    Raises:
        ModelError: no known layout fits, or the pattern matches nothing; names the modules that could be meant.
    """
    family = Family(pattern, ()) if pattern else _known_family(model)
    if family is None or "{}" not in family.activation:
        raise ModelError(_unknown_layout(model, pattern))
    found = _resolve(model, family.blocks)
    blocks = tuple(found) if isinstance(found, nn.ModuleList) else ()
    activations = tuple(_resolve(model, family.activation.replace("{}", str(i))) for i in range(len(blocks)))
    if not any(activations):
        raise ModelError(_unknown_layout(model, pattern))
    tail = None if pattern else tuple(m for m in (_resolve(model, path) for path in family.tail) if m is not None)
    parent = family.activation.replace("{}", str(len(blocks) - 1)).rpartition(".")[0]
    ffn = _resolve(model, parent) if tail is not None else None
    return Neurons(blocks, activations, tail, None if ffn is None or ffn in blocks else ffn)


def choose_layers(layers: str | Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Resolve `paper` (first, middle, last; the middle of L blocks is (L - 1) // 2), `all`, or a list of numbers.

    Raises:
        ModelError: a number outside -L..L-1.
    """
    if layers == "paper":
        return tuple(sorted({0, (n_layers - 1) // 2, n_layers - 1}))
    if layers == "all":
        return tuple(range(n_layers))
    numbers = [int(layer) for layer in layers]
    wrong = [layer for layer in numbers if not -n_layers <= layer < n_layers]
    if wrong:
        raise ModelError(
            f"--quantcheck-layers: the model has layers 0 to {n_layers - 1}, and {', '.join(map(str, wrong))} "
            "is none of them; name existing layers, `paper` or `all`"
        )
    return tuple(sorted({layer % n_layers for layer in numbers}))


def _known_family(model: nn.Module) -> Family | None:
    for family in _FAMILIES:
        if _resolve(model, family.activation.replace("{}", "0")) is not None:
            return family
    return None


def _resolve(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _unknown_layout(model: nn.Module, pattern: str | None) -> str:
    asked = f"--quantcheck-neurons={pattern} matches no module" if pattern else "its FFN layout is not known"
    return (
        f"{type(model).__name__}: {asked}. Name the activation function inside each block's FFN, with {{}} for the "
        f"block's number: --quantcheck-neurons=model.layers.{{}}.mlp.act_fn, for example. Modules of the first block "
        f"and around: {_module_names(model)}"
    )


def _module_names(model: nn.Module, most: int = 40) -> str:
    names = [f"{name} ({type(m).__name__})" for name, m in model.named_modules() if name and not _in_later_block(name)]
    more = "" if len(names) <= most else f", and {len(names) - most} more"
    return ", ".join(names[:most]) + more


def _in_later_block(name: str) -> bool:
    return any(part.isdigit() and part != "0" for part in name.split("."))


def head_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (rows, vocabulary) from the hidden states (rows, width) that come out of the tail."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)  # type: ignore[operator]
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)

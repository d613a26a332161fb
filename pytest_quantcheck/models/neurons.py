"""Find a model's FFN neurons and the modules after its blocks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.architectures import ACTIVATIONS, AFTER_BLOCKS, FfnNames, Layout
from pytest_quantcheck.models.experts import Mixture, find_mixture, find_shared
from pytest_quantcheck.models.tracing import trace_layout

_RECTIFIED = ("relu", "relu2", "relusquared", "reluactivation")


@dataclass(frozen=True)
class Neurons:
    """The blocks of a model and the modules that output their neurons.

    `activations`: of each block's FFN that every token passes; `mixtures`: of each block's routed experts. `tail`: the
    modules between the last block and the output head, in order; None for a layout that the user named. `last_ffn`: the
    last block's FFN, if it is a module of its own and no mixture. `traced`: names of the FFN's projections in a layout
    that was traced.
    """

    blocks: tuple[nn.Module, ...]
    activations: tuple[nn.Module | None, ...]
    tail: tuple[nn.Module, ...] | None
    last_ffn: nn.Module | None = None
    mixtures: dict[int, Mixture] = field(default_factory=dict)
    traced: FfnNames | None = None

    def activation(self, layer: int) -> nn.Module:
        """Find the module whose output, `(..., neurons)`, is this layer's neurons.

        Raises:
            ModelError: this layer has none.
        """
        module = self.activations[layer]
        if module is None:
            those = [number for number, found in enumerate(self.activations) if found or number in self.mixtures]
            raise ModelError(
                f"layer {layer} has no FFN activation; measure layers that have one, with --quantcheck-layers: "
                f"{', '.join(map(str, those))}"
            )
        return module

    @property
    def parameters_per_token(self) -> int:
        """Number of weights of the blocks that a token is multiplied with: of an expert's, those of its share."""
        whole = sum(parameter.numel() for block in self.blocks for parameter in block.parameters())
        return whole - sum(mixture.idle_parameters for mixture in self.mixtures.values())

    def check(self, layer: int) -> None:
        """Refuse a layer without neurons, as `activation` does."""
        if layer not in self.mixtures:
            self.activation(layer)


def is_rectified(function: nn.Module | None) -> bool:
    """Say whether an activation function is a ReLU: exactly 0 when off."""
    return type(function).__name__.lower() in _RECTIFIED


def find_neurons(model: nn.Module, pattern: str | None = None) -> Neurons:
    """Find the activation function of each block's FFN.

    Args:
        model: a causal language model of transformers.
        pattern: path of the activation module with `{}` for the block's number, such as
            `model.layers.{}.mlp.act_fn`; None tries the known names, and traces the model where none fits.

    Raises:
        ModelError: no FFN was found, or the pattern matches nothing; lists the modules of the model.
    """
    if pattern:
        return _named(model, pattern)
    decoder = find_decoder(model)
    try:
        layout = _known_layout(decoder) or trace_layout(model, decoder)
    except ModelError as error:
        raise ModelError(f"{error}. {_how_to_name(model)}") from error
    blocks = _blocks(decoder, layout.blocks)
    mixtures = {layer: mixture for layer, block in enumerate(blocks) if (mixture := find_mixture(block))}
    dense = [_resolve(block, layout.activation) if layout.activation else None for block in blocks]
    shared = [find_shared(block) if layer in mixtures else None for layer, block in enumerate(blocks)]
    activations = tuple(found or other for found, other in zip(dense, shared, strict=True))
    own = [id(found) for found in dense if found]
    if len(set(own)) < len(own):
        raise ModelError(f"{type(model).__name__}: its blocks share one activation module, and each must have its own")
    tail = tuple(m for m in (_resolve(decoder, name) for name in AFTER_BLOCKS) if m is not None)
    ffn = (layout.activation or "").rpartition(".")[0]
    last = _resolve(blocks[-1], ffn) if ffn and len(blocks) - 1 not in mixtures else None
    return Neurons(blocks, activations, tail, last, mixtures, layout.ffn)


def _named(model: nn.Module, pattern: str) -> Neurons:
    """Find the modules that a user named."""
    blocks = _blocks(model, pattern.split(".{}", maxsplit=1)[0]) if "{}" in pattern else ()
    activations = tuple(_resolve(model, pattern.replace("{}", str(i))) for i in range(len(blocks)))
    if not any(activations):
        raise ModelError(
            f"{type(model).__name__}: --quantcheck-neurons={pattern} matches no module. {_how_to_name(model)}"
        )
    return Neurons(blocks, activations, None)


def choose_layers(layers: str | Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Find the numbers of the layers that an option names.

    `paper` is the first, middle and last layer; the middle of L blocks is (L - 1) // 2. `all` is every layer. Numbers
    below 0 count from the end. The result is sorted and has each number once.

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


def head_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Make logits (rows, vocabulary) from the tail's output (rows, width).

    They are scaled and limited as the configuration says.
    """
    logits: torch.Tensor = model.get_output_embeddings()(hidden)  # type: ignore[operator]
    config = model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    factors = (getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier"))
    logits = logits * math.prod(factor for factor in factors if factor is not None)
    logits = logits / (getattr(config, "logits_scaling", None) or 1)
    caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    cap = next(filter(None, caps), None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def find_decoder(model: nn.Module) -> nn.Module:
    """Find the part that holds the blocks, inside a multimodal wrapper too."""
    known = getattr(model, "get_decoder", None)  # code of a checkpoint's own may have none
    inner = known() if known else model
    if inner is model or not _has_list(inner):  # the innermost; Llama 4 and ModernBERT, which do not know their own
        inner = getattr(model, "model", model)
    return model if inner is model else find_decoder(inner)


def _has_list(module: nn.Module) -> bool:
    return any(isinstance(part, nn.ModuleList) for part in module.modules())


def parts_outside_text(model: nn.Module) -> dict[str, int]:
    """Count the weights of parts that text does not reach.

    By name, such as that of a vision tower; most first. A text model alone has none.
    """
    if model.config.get_text_config(decoder=True) is model.config:  # type: ignore[operator, union-attr]
        return {}
    inside = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}  # type: ignore[operator]
    parts = Counter(dict(_parts_outside(model, find_decoder(model), inside)))
    return dict(parts.most_common())


def _parts_outside(model: nn.Module, decoder: nn.Module, inside: set[int]) -> Iterator[tuple[str, int]]:
    for name, child in model.named_children():
        if child is decoder or id(child) in inside:
            continue
        if any(module is decoder for module in child.modules()):
            yield from ((f"{name}.{part}", size) for part, size in _parts_outside(child, decoder, inside))
        elif size := sum(parameter.numel() for parameter in child.parameters()):
            yield name, size


def _known_layout(decoder: nn.Module) -> Layout | None:
    """Find the layout by its names; of a mixture, whose dense blocks may have none, by those of its blocks."""
    layouts = [Layout(blocks, inside) for blocks, _, inside in (path.partition(".{}.") for path in ACTIVATIONS)]
    for layout in layouts:
        if _resolve(decoder, f"{layout.blocks}.0.{layout.activation}") is not None:
            return layout
    for layout in layouts:
        if any(map(find_mixture, _blocks(decoder, layout.blocks))):
            return layout
    return None


def _blocks(root: nn.Module, path: str) -> tuple[nn.Module, ...]:
    listed = _resolve(root, path)
    return tuple(listed) if isinstance(listed, nn.ModuleList) else ()


def _resolve(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _how_to_name(model: nn.Module) -> str:
    return (
        "Name the activation function inside each block's FFN, with {} for the block's number: "
        "--quantcheck-neurons=model.layers.{}.mlp.act_fn, for example. Modules of the first block and around: "
        f"{_module_names(model)}"
    )


def _module_names(model: nn.Module, most: int = 40) -> str:
    names = [f"{name} ({type(m).__name__})" for name, m in model.named_modules() if name and not _in_later_block(name)]
    more = "" if len(names) <= most else f", and {len(names) - most} more"
    return ", ".join(names[:most]) + more


def _in_later_block(name: str) -> bool:
    return any(part.isdigit() and part != "0" for part in name.split("."))

"""Architectures that are known: where the neurons are, what follows the blocks, which projections an FFN has."""

from __future__ import annotations

from typing import NamedTuple


class FfnNames(NamedTuple):
    """Names of an FFN's linear modules inside a block.

    `gate` feeds the activation function. `up` is multiplied with the function's output; None where nothing is. In a
    fused module, which is both, the rows of the gate come first. `down` has a column for each neuron.
    """

    gate: str
    up: str | None
    down: str

    def inside(self, module: str) -> FfnNames:
        """Name them inside a module of the FFN: `mlp.shared_expert.down_proj`."""
        ffn, _, down = self.down.rpartition(".")

        def inner(name: str) -> str:
            return f"{ffn}.{module}.{name.removeprefix(f'{ffn}.')}"

        return FfnNames(inner(self.gate), self.up and inner(self.up), inner(down))

    def __str__(self) -> str:
        """List the modules' names, each once."""
        return " ".join(dict.fromkeys(filter(None, self)))


class Architecture(NamedTuple):
    """One way to lay out a decoder.

    Paths begin at the decoder, which may be a part of a multimodal model.

    `models`: the `model_type` of models that have it and are tested. `activation`: path of the module whose output is
    a block's neurons; `{}` stands for the block's number. `tail`: paths of the modules between the last block and the
    output head; those that a model lacks are left out. `ffn`: ways to lay out the FFN.
    """

    models: tuple[str, ...]
    activation: str
    tail: tuple[str, ...] = ()
    ffn: tuple[FfnNames, ...] = ()

    @property
    def blocks(self) -> str:
        """Path of the list of blocks."""
        return self.activation.split(".{}", maxsplit=1)[0]


ARCHITECTURES = (
    Architecture(
        (
            *("llama", "mistral", "mistral3", "qwen2", "qwen3", "qwen2_5_vl", "qwen3_vl"),
            *("gemma", "gemma2", "gemma3", "gemma3_text"),
            *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss"),
        ),
        "layers.{}.mlp.act_fn",
        ("norm",),
        (FfnNames("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),),
    ),
    Architecture(
        ("llama4", "llama4_text"),
        "layers.{}.feed_forward.activation_fn",
        ("norm",),
        (FfnNames("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"),),
    ),
    Architecture(
        ("phi", "phi3"),
        "layers.{}.mlp.activation_fn",
        ("final_layernorm", "norm"),
        (FfnNames("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj"), FfnNames("mlp.fc1", None, "mlp.fc2")),
    ),
    Architecture(
        ("gpt2",),
        "h.{}.mlp.act",
        ("ln_f",),
        (FfnNames("mlp.c_fc", None, "mlp.c_proj"),),
    ),
    Architecture(
        ("gpt_neox",),
        "layers.{}.mlp.act",
        ("final_layer_norm",),
        (FfnNames("mlp.dense_h_to_4h", None, "mlp.dense_4h_to_h"),),
    ),
    Architecture(
        ("opt",),
        "layers.{}.activation_fn",
        ("final_layer_norm", "project_out"),
        (FfnNames("fc1", None, "fc2"),),
    ),
)
"""The first whose activation path leads to a module is a model's architecture.

An FFN is found by its names alone, so that one in a layout named with `--quantcheck-neurons` is found too.
"""

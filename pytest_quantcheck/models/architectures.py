"""Names of a decoder's parts: where the neurons are, the FFN's projections, what follows the blocks."""

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


class Layout(NamedTuple):
    """Where a decoder has its FFNs.

    `blocks`: path of the list of blocks. `activation`: path inside a block of the module whose output is its neurons;
    None where every block is a mixture of experts. `ffn`: the FFN's projections, where they were traced.
    """

    blocks: str
    activation: str | None = None
    ffn: FfnNames | None = None


ACTIVATIONS = (
    "layers.{}.mlp.act_fn",
    "layers.{}.feed_forward.activation_fn",
    "layers.{}.feed_forward.act_fn",
    "layers.{}.mlp.activation_fn",
    "layers.{}.mlp.act",
    "h.{}.mlp.act",
    "layers.{}.activation_fn",
)
"""Paths, from the decoder, of the module whose output is a block's neurons; `{}` stands for the block's number.

The first that leads to a module in the first block counts. A layout that none fits is traced.
"""

FFNS = (
    FfnNames("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    FfnNames("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"),
    FfnNames("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    FfnNames("mlp.up_proj", None, "mlp.down_proj"),
    FfnNames("mlp.fc1", None, "mlp.fc2"),
    FfnNames("mlp.fc_in", None, "mlp.fc_out"),
    FfnNames("mlp.c_fc", None, "mlp.c_proj"),
    FfnNames("mlp.dense_h_to_4h", None, "mlp.dense_4h_to_h"),
    FfnNames("mlp.Wi", "mlp.Wi", "mlp.Wo"),
    FfnNames("fc1", None, "fc2"),
)
"""The first that a block has is its FFN, in a layout named with `--quantcheck-neurons` too."""

AFTER_BLOCKS = (
    "norm",
    "final_layernorm",
    "final_layer_norm",
    "layer_norm",
    "ln_f",
    "norm_f",
    "final_norm",
    "project_out",
)
"""Paths, from the decoder, of the modules between the last block and the output head, in order.

Each decoder has some. Whether they are all is seen by what they give: an attribution that does not begin at the model's
own answer runs the whole model.
"""

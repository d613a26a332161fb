"""The controls: models made to find out whether the gate works, by name."""

from typing import Literal, NamedTuple

Kind = Literal["null", "rewrite", "defect"]


class Control(NamedTuple):
    """One control: what is made of the reference to be judged like a candidate.

    A `null` is the reference under conditions that must not matter, a `rewrite` has other weights and the same
    function; both must pass. A `defect` is a damaged copy and must fail. `summary` is one sentence: what is
    done, and where it happens to models that are released.
    """

    name: str
    kind: Kind
    summary: str


_ALL = (
    Control("null-batches", "null", "The reference with other batches and its prompts in another order."),
    Control("null-dtype", "null", "The reference in another float format."),
    Control("null-kernels", "null", "The reference with eager attention in place of the default's kernels."),
    Control(
        "rewrite-permuted",
        "rewrite",
        "The FFN neurons of each measured layer in another order, rows and columns alike, as tools that sort or shard "
        "channels leave them.",
    ),
    Control(
        "rewrite-rescaled",
        "rewrite",
        "The up projection of each measured layer rescaled by channel and the down projection inversely, as AWQ and "
        "SmoothQuant do.",
    ),
    Control(
        "constant-projection",
        "defect",
        "One projection packed to a constant, as in a release that went out unnoticed (llm-compressor #1765).",
    ),
    Control(
        "wrong-scales",
        "defect",
        "The scales of one layer wrong by a factor, as when a loader fills only the first scale of a fused projection "
        "(vllm #39764).",
    ),
    Control(
        "shifted-scales",
        "defect",
        "Each group of weights with its neighbour's scale, in every layer, as when a shard's offset into the scales is "
        "rounded the wrong way (vllm #52997).",
    ),
    Control(
        "two-bit-layer",
        "defect",
        "One layer left at 2 bits, as a mixed-precision recipe with one wrong entry gives.",
    ),
    Control(
        "swapped-layers",
        "defect",
        "Two layers in each other's place, as a converter that sorts tensors by name gives: 10 comes before 2.",
    ),
    Control(
        "dropped-zero-points",
        "defect",
        "The zero points of every layer dropped, as when asymmetric weights are unpacked as symmetric ones "
        "(compressed-tensors #458).",
    ),
    Control(
        "zeroed-rows",
        "defect",
        "A share of the rows that feed the FFN neurons zeroed in every layer, as when a shard's padding takes the "
        "place of weights (Megatron-LM #7168).",
    ),
    Control(
        "duplicated-rows",
        "defect",
        "A share of the FFN neurons replaced by copies of others in every layer, as when every rank loads the first "
        "shard (vllm-gguf-plugin #103).",
    ),
    Control(
        "sharpened-logits",
        "defect",
        "Logits multiplied by a factor, so that confidence moves and answers do not, as a converter that forgets a "
        "logit scale or shifts the final norm gives.",
    ),
    Control(
        "other-fine-tune",
        "defect",
        "Another fine-tune of the same shape: a few steps of training towards other answers, as when the wrong "
        "checkpoint is released.",
    ),
    Control(
        "three-bits",
        "defect",
        "Every layer rounded to the nearest of 3 bits, as a release does that saves one bit too many.",
    ),
)

CONTROLS: dict[str, Control] = {control.name: control for control in _ALL}
"""Nulls, then rewrites, then defects."""

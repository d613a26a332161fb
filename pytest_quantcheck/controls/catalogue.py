"""The controls by name, one row for each; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan
    from pytest_quantcheck.models.loaded import LoadedModel
    from pytest_quantcheck.prompts import PromptSet

ControlKind = Literal["null", "rewrite", "defect"]


class Control(NamedTuple):
    """One control: a model made from the reference and judged like a candidate.

    A `null` is the reference under conditions that must not matter, a `rewrite` has other weights and computes the
    same function; both must pass. A `defect` is a damaged copy and must fail.
    """

    name: str
    kind: ControlKind
    summary: str
    """One sentence: what is done, and where it happens to released models."""
    apply: str
    """The function that makes the control of a loaded reference, as `MODULE:FUNCTION`; imported when it is needed.

    It takes a `Site` and returns what it did, in words; a null may return the plan to measure by before that.
    """
    severity: float | None = None
    """Of a defect: the severity in a certificate. What it counts stands in the function's docstring."""
    grades: tuple[float, ...] = ()
    """Of a defect: the severities of studies, mildest first."""
    other_dtype: bool = False
    """Whether the reference is loaded in another float format."""


@dataclass(frozen=True, eq=False)
class Site:
    """What a control is made from: the loaded reference, and how a run measures it."""

    loaded: LoadedModel
    plan: Plan
    layers: tuple[int, ...]
    """The numbers of the measured layers, in order; a rewrite or a defect has at least one."""
    prompts: PromptSet
    severity: float
    """Of a defect, above 0; 0 for other kinds."""

    @property
    def layer(self) -> int:
        """The middle measured layer, for defects of one layer."""
        return self.layers[(len(self.layers) - 1) // 2]


_ALL = (
    Control(
        "null-batches",
        "null",
        "The reference with other batches and its prompts in another order.",
        "pytest_quantcheck.controls.nulls:other_batches",
    ),
    Control(
        "null-dtype",
        "null",
        "The reference in another float format.",
        "pytest_quantcheck.controls.nulls:other_dtype",
        other_dtype=True,
    ),
    Control(
        "null-kernels",
        "null",
        "The reference with eager attention in place of the default's kernels.",
        "pytest_quantcheck.controls.nulls:eager_attention",
    ),
    Control(
        "rewrite-permuted",
        "rewrite",
        "The FFN neurons of each measured layer in another order, rows and columns alike, as tools that sort or shard "
        "channels leave them.",
        "pytest_quantcheck.controls.rewrites:permuted",
    ),
    Control(
        "rewrite-rescaled",
        "rewrite",
        "The up projection of each measured layer rescaled by channel and the down projection inversely, as AWQ and "
        "SmoothQuant do.",
        "pytest_quantcheck.controls.rewrites:rescaled",
    ),
    Control(
        "constant-projection",
        "defect",
        "One projection packed to a constant, as in a release whose defect went unnoticed (llm-compressor #1765).",
        "pytest_quantcheck.controls.defects:constant_projection",
        severity=1.0,
        grades=(1 / 64, 1 / 16, 1 / 4, 1.0),
    ),
    Control(
        "wrong-scales",
        "defect",
        "The scales of one layer wrong by a factor, as when a loader fills only the first scale of a fused projection "
        "(vllm #39764).",
        "pytest_quantcheck.controls.defects:wrong_scales",
        severity=1.5,
        grades=(1.05, 1.1, 1.25, 1.5, 2.0),
    ),
    Control(
        "shifted-scales",
        "defect",
        "Each group of weights with its neighbour's scale, in every layer, as when a shard's offset into the scales is "
        "rounded the wrong way (vllm #52997).",
        "pytest_quantcheck.controls.defects:shifted_scales",
        severity=1.0,
        grades=(1 / 64, 1 / 16, 1 / 4, 1.0),
    ),
    Control(
        "two-bit-layer",
        "defect",
        "One layer at 2 bits, as from a mixed-precision recipe with one wrong entry.",
        "pytest_quantcheck.controls.defects:two_bit_layer",
        severity=2,
        grades=(4, 3, 2),
    ),
    Control(
        "swapped-layers",
        "defect",
        "Two layers in each other's place, as from a converter that sorts tensors by name: 10 comes before 2.",
        "pytest_quantcheck.controls.defects:swapped_layers",
        severity=2,
        grades=(1, 2, 3),
    ),
    Control(
        "dropped-zero-points",
        "defect",
        "The zero points of every layer dropped, as when asymmetric weights are unpacked as symmetric ones "
        "(compressed-tensors #458).",
        "pytest_quantcheck.controls.defects:dropped_zero_points",
        severity=1.0,
        grades=(1 / 64, 1 / 16, 1 / 4, 1.0),
    ),
    Control(
        "zeroed-rows",
        "defect",
        "A share of the rows that feed the FFN neurons zeroed in every layer, as when a shard's padding takes the "
        "place of weights (Megatron-LM #7168).",
        "pytest_quantcheck.controls.defects:zeroed_rows",
        severity=0.05,
        grades=(0.01, 0.02, 0.05, 0.1),
    ),
    Control(
        "duplicated-rows",
        "defect",
        "A share of the FFN neurons replaced by copies of others in every layer, as when every rank loads the first "
        "shard (vllm-gguf-plugin #103).",
        "pytest_quantcheck.controls.defects:duplicated_rows",
        severity=0.125,
        grades=(1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4),
    ),
    Control(
        "sharpened-logits",
        "defect",
        "Logits multiplied by a factor, so that confidence changes and answers do not, as from a converter that "
        "forgets a logit scale or shifts the final norm.",
        "pytest_quantcheck.controls.defects:sharpened_logits",
        severity=4.0,
        grades=(1.05, 1.1, 1.3, 2.0, 4.0),
    ),
    Control(
        "other-fine-tune",
        "defect",
        "Another fine-tune of the same shape: a few steps of training towards other answers, as when the wrong "
        "checkpoint is released.",
        "pytest_quantcheck.controls.defects:other_fine_tune",
        severity=8,
        grades=(1, 2, 4, 8),
    ),
    Control(
        "three-bits",
        "defect",
        "Every layer rounded to the nearest of 3 bits, as in a release that saves one bit too many.",
        "pytest_quantcheck.controls.defects:three_bits",
        severity=3,
        grades=(8, 6, 5, 4, 3, 2),
    ),
    Control(
        "four-bit-router",
        "defect",
        "The routers of a mixture of experts rounded to 4 bits, all other weights as they were, as by a recipe that "
        "does not except them.",
        "pytest_quantcheck.controls.defects:four_bit_router",
        severity=4,
        grades=(8, 6, 5, 4, 3, 2),
    ),
)

CONTROLS: dict[str, Control] = {control.name: control for control in _ALL}
"""Nulls, then rewrites, then defects."""

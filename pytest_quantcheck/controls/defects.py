"""Defects that quantized releases really have, done to a model in memory. A gate that misses one is blind to it.

Defects of codes, scales and zero points go through a quantizer (8 bits, groups of 64 inputs, see `packing`): the
weights are packed, the packed form is damaged, and what it then stands for is written back. 8 bits, because packing
alone then does no harm that could be taken for the defect's. What a loader or a kernel gets wrong is wrong in every
layer; what a recipe or a converter gets wrong, in one. Each defect has a severity: the default is that of the
certificate, the grades are for studies, mildest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from pytest_quantcheck.controls.fine_tuning import teach_other_answers
from pytest_quantcheck.controls.packing import GROUP, Packed, pack
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.projections import (
    Ffn,
    Projection,
    every_ffn,
    every_projection,
    ffn_of,
    projections_of,
    refuse_packed,
)
from pytest_quantcheck.prompts import PromptSet

BITS = 8
"""At which weights are packed to be damaged, unless the defect says otherwise."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What a defect is done to: a model, the layers that are measured (one or more), and the prompts."""

    loaded: LoadedModel
    layers: Sequence[int]
    prompts: PromptSet

    @property
    def layer(self) -> int:
        """The middle one of the measured layers, where a defect is about one."""
        return self.layers[(len(self.layers) - 1) // 2]

    @property
    def projections(self) -> list[Projection]:
        """Every linear map of that layer's block."""
        return projections_of(self.loaded, self.layer)

    @property
    def ffn(self) -> Ffn:
        """That layer's FFN."""
        return ffn_of(self.loaded, self.layer)


def constant_projection(subject: Subject, severity: float) -> str:
    """Let the codes of one projection, the one that feeds the middle layer's neurons, all be their mean magnitude.

    Its weights are then one constant for each row and group. llm-compressor #1765 is about a release with such
    projections. Severity: the share of its rows.
    """
    gate = subject.ffn.gate

    def damage(packed: Packed) -> Packed:
        constant = packed.codes.abs().mean().round().expand_as(packed.codes)
        return replace(packed, codes=_first_rows(severity, constant, packed.codes))

    _repack([gate], damage)
    return f"{100 * severity:.4g} % of the rows of {gate.name} in layer {subject.layer} packed to a constant"


def wrong_scales(subject: Subject, severity: float) -> str:
    """Multiply the scales of the middle layer's projections.

    A fused projection whose loader fills only the first scale has wrong ones for all its other parts (vllm
    #39764). Severity: the factor.
    """
    _repack(subject.projections, lambda packed: replace(packed, scales=packed.scales * severity))
    return f"the scales of layer {subject.layer} multiplied by {severity:.4g}"


def shifted_scales(subject: Subject, severity: float) -> str:
    """Give each group of every layer's projections the scale of the group before it.

    That is what an offset into the scales does that is off by one group, such as that of a shard that does not
    begin at a group's edge (vllm #52997). Severity: the share of each projection's rows, as a shard has.
    """
    everywhere = every_projection(subject.loaded)
    if all(projection.weight.shape[1] <= GROUP for projection in everywhere):
        raise NotApplicable(f"no layer has two groups of {GROUP} inputs to confuse")

    def damage(packed: Packed) -> Packed:
        return replace(packed, scales=_first_rows(severity, packed.scales.roll(1, dims=1), packed.scales))

    _repack(everywhere, damage)
    return f"group scales shifted by one group in {100 * severity:.4g} % of the rows of every layer"


def two_bit_layer(subject: Subject, severity: float) -> str:
    """Round the middle layer to 2 bits.

    Mixed-precision recipes choose bits layer by layer; one wrong entry gives this. Severity: the bits.
    """
    _repack(subject.projections, bits=_whole(severity, least=2))
    return f"layer {subject.layer} rounded to {severity:.4g} bits"


def swapped_layers(subject: Subject, severity: float) -> str:
    """Swap all weights of the middle layer with those of the layer some places behind it.

    A converter that sorts tensors by name has layer 10 before layer 2. Severity: how many places apart; near the
    end of the model both lie further in front.
    """
    distance, blocks = _whole(severity, least=1), subject.loaded.neurons.blocks
    first = min(subject.layer, len(blocks) - 1 - distance)
    if first < 0:
        raise NotApplicable(f"the model has {len(blocks)} layers, and none are {distance} apart")
    here, there = (dict(block.named_parameters()) for block in (blocks[first], blocks[first + distance]))
    if {name: p.shape for name, p in here.items()} != {name: p.shape for name, p in there.items()}:
        raise NotApplicable(f"layers {first} and {first + distance} have other weights or other shapes")
    for name, parameter in here.items():
        parameter.data, there[name].data = there[name].data, parameter.data
    return f"layers {first} and {first + distance} swapped"


def dropped_zero_points(subject: Subject, severity: float) -> str:
    """Pack every layer with zero points and read it without them, as symmetric codes around 2 ** (bits - 1).

    compressed-tensors packed zero points and did not unpack them (#458). Severity: the share of each projection's
    rows.
    """

    def damage(packed: Packed) -> Packed:
        middle = torch.full_like(packed.zeros, 2 ** (BITS - 1))
        return replace(packed, zeros=_first_rows(severity, middle, packed.zeros))

    _repack(every_projection(subject.loaded), damage, symmetric=False)
    return f"zero points dropped in {100 * severity:.4g} % of the rows of every layer"


def zeroed_rows(subject: Subject, severity: float) -> str:
    """Zero the first rows that feed the FFN neurons, biases too, in every layer: those neurons die.

    Padding of a shard that takes the place of weights does that (Megatron-LM #7168). Severity: the share of rows.
    """
    for ffn in every_ffn(subject.loaded):
        n = _count(severity, ffn.neurons)
        for values in (ffn.gate.weight, ffn.gate.bias):
            if values is not None:
                values[:n] = 0
    return f"{100 * severity:.4g} % of the FFN rows of every layer zeroed"


def duplicated_rows(subject: Subject, severity: float) -> str:
    """Write the first rows of the FFN, gate and up projection alike, over its last ones in every layer.

    When every rank of a sharded model loads the first shard, the last neurons are copies of the first
    (vllm-gguf-plugin #103). Severity: the share of rows that are copies, half at most.
    """
    if severity > 0.5:
        raise ValueError(f"Expected a share of rows up to 0.5, as each copy needs a row that stays, got {severity:g}.")
    for ffn in every_ffn(subject.loaded):
        n = _count(severity, ffn.neurons)
        for rows in ffn.inward:
            for values in (rows.weight, rows.bias):
                if values is not None:
                    values[-n:] = values[:n]
    return f"{100 * severity:.4g} % of the FFN rows of every layer replaced by copies of others"


def sharpened_logits(subject: Subject, severity: float) -> str:
    """Multiply the output head: confidence moves, answers do not.

    A converter that forgets a logit scale (Granite divides by up to 16), or adds 1 to a final norm that has it already,
    does that. A head that shares its weights with the embedding gets weights of its own: multiplying those would alter
    more than the logits. Severity: the factor.
    """
    head = subject.loaded.model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise NotApplicable("the model has no linear output head")
    head.weight = nn.Parameter(head.weight.data * severity, requires_grad=False)
    if head.bias is not None:
        head.bias.data *= severity
    return f"logits multiplied by {severity:.4g}"


def other_fine_tune(subject: Subject, severity: float) -> str:
    """Train the model a little towards other answers, as if another fine-tune of it were released by mistake.

    Severity: the number of steps.
    """
    return teach_other_answers(subject.loaded, subject.prompts, _whole(severity, least=1))


def three_bits(subject: Subject, severity: float) -> str:
    """Round every layer to 3 bits, one fewer than most models bear. Severity: the bits."""
    return round_to_nearest(subject.loaded, _whole(severity, least=2))


def round_to_nearest(loaded: LoadedModel, bits: int) -> str:
    """Round every linear weight of every block to `bits` bits, symmetric, in groups of 64 inputs.

    Raises:
        NotApplicable: the model is quantized.
    """
    refuse_packed(loaded)
    _repack(every_projection(loaded), bits=bits)
    return f"every layer rounded to {bits} bits"


class Defect(NamedTuple):
    """How a defect is made, how severe it is in a certificate, and in which grades, mildest first."""

    damage: Callable[[Subject, float], str]
    severity: float
    grades: tuple[float, ...]


DEFECTS = {
    "constant-projection": Defect(constant_projection, 1.0, (1 / 64, 1 / 16, 1 / 4, 1.0)),
    "wrong-scales": Defect(wrong_scales, 1.5, (1.05, 1.1, 1.25, 1.5, 2.0)),
    "shifted-scales": Defect(shifted_scales, 1.0, (1 / 64, 1 / 16, 1 / 4, 1.0)),
    "two-bit-layer": Defect(two_bit_layer, 2, (4, 3, 2)),
    "swapped-layers": Defect(swapped_layers, 2, (1, 2, 3)),
    "dropped-zero-points": Defect(dropped_zero_points, 1.0, (1 / 64, 1 / 16, 1 / 4, 1.0)),
    "zeroed-rows": Defect(zeroed_rows, 0.05, (0.01, 0.02, 0.05, 0.1)),
    "duplicated-rows": Defect(duplicated_rows, 0.125, (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)),
    "sharpened-logits": Defect(sharpened_logits, 4.0, (1.05, 1.1, 1.3, 2.0, 4.0)),
    "other-fine-tune": Defect(other_fine_tune, 8, (1, 2, 4, 8)),
    "three-bits": Defect(three_bits, 3, (8, 6, 5, 4, 3, 2)),
}
"""By the name of the control."""


def _repack(
    projections: Iterable[Projection],
    damage: Callable[[Packed], Packed] = lambda packed: packed,
    *,
    bits: int = BITS,
    symmetric: bool = True,
) -> None:
    for projection in projections:
        projection.weight.copy_(damage(pack(projection.weight, bits, symmetric=symmetric)).weight())


def _first_rows(share: float, damaged: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """This share of rows from the first tensor, the rest from the second."""
    n = _count(share, len(whole))
    return torch.cat([damaged[:n], whole[n:]])


def _count(share: float, n: int) -> int:
    if not 0 < share <= 1:
        raise ValueError(f"Expected a share of rows above 0 and up to 1 as severity, got {share:g}.")
    return max(1, int(share * n))


def _whole(severity: float, *, least: int) -> int:
    if severity != int(severity) or severity < least:
        raise ValueError(f"Expected a whole number from {least} as severity, got {severity:g}.")
    return int(severity)

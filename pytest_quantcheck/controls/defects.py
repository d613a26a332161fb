"""Defects of released quantized models, made in memory. A gate that misses one is blind to it.

Each function takes a `Site` and returns what it did, in words. Defects of codes, scales and zero points go through a
quantizer (8 bits, groups of 64 inputs, see `packing`): the weights are packed, the packed form is damaged, and what it
then stands for is written back. At 8 bits the packing alone does no harm that could be mistaken for the defect. A
mistake of a loader or a kernel damages every layer; a mistake of a recipe or a converter damages one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn

from pytest_quantcheck.controls.catalogue import Site
from pytest_quantcheck.controls.fine_tuning import train_other_answers
from pytest_quantcheck.controls.packing import GROUP, Packed, pack
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.experts import find_router
from pytest_quantcheck.models.projections import Projection, every_ffn, every_projection, ffns_of, projections_of

BITS = 8
"""The bit-width at which weights are packed to be damaged, unless the defect has its own."""


def constant_projection(site: Site) -> str:
    """Set the codes of one projection to their mean magnitude.

    The projection is the one that feeds the middle layer's neurons. Its weights become one constant for each row and
    group, as in the release of llm-compressor #1765. Severity: the share of its rows.
    """
    gates = [ffn.gate for ffn in ffns_of(site.loaded, site.layer)]

    def damage(packed: Packed) -> Packed:
        constant = packed.codes.abs().mean().round().expand_as(packed.codes)
        return replace(packed, codes=_first_rows(site.severity, constant, packed.codes))

    _repack(gates, damage)
    which = gates[0].name if len(gates) == 1 else f"the gate projections of {len(gates)} experts"
    return f"{100 * site.severity:.4g} % of the rows of {which} in layer {site.layer} packed to a constant"


def wrong_scales(site: Site) -> str:
    """Multiply the scales of the middle layer's projections.

    A loader that fills only the first scale of a fused projection leaves wrong scales in its other parts (vllm
    #39764). Severity: the factor.
    """
    projections = projections_of(site.loaded, site.layer)
    _repack(projections, lambda packed: replace(packed, scales=packed.scales * site.severity))
    return f"the scales of layer {site.layer} multiplied by {site.severity:.4g}"


def shifted_scales(site: Site) -> str:
    """Give each group of weights the scale of the group before it.

    An offset into the scales that is wrong by one group does this, as for a shard that does not begin at a group's
    edge (vllm #52997). Every layer is damaged. Severity: the share of each projection's rows.
    """
    everywhere = every_projection(site.loaded)
    if all(projection.weight.shape[1] <= GROUP for projection in everywhere):
        raise NotApplicable(f"no layer has two groups of {GROUP} inputs whose scales could be shifted")

    def damage(packed: Packed) -> Packed:
        return replace(packed, scales=_first_rows(site.severity, packed.scales.roll(1, dims=1), packed.scales))

    _repack(everywhere, damage)
    return f"group scales shifted by one group in {100 * site.severity:.4g} % of the rows of every layer"


def two_bit_layer(site: Site) -> str:
    """Round the middle layer to 2 bits.

    One wrong entry in a mixed-precision recipe does this. Severity: the bits.
    """
    _repack(projections_of(site.loaded, site.layer), bits=_whole_number(site.severity, least=2))
    return f"layer {site.layer} rounded to {site.severity:.4g} bits"


def swapped_layers(site: Site) -> str:
    """Swap all weights of the middle layer with a later layer's.

    A converter that sorts tensors by name puts layer 10 before layer 2. Severity: the distance in layers; near the end
    of the model both layers are earlier ones.
    """
    distance, blocks = _whole_number(site.severity, least=1), site.loaded.neurons.blocks
    first = min(site.layer, len(blocks) - 1 - distance)
    if first < 0:
        raise NotApplicable(f"the model has {len(blocks)} layers, and no two are {distance} apart")
    earlier, later = (dict(block.named_parameters()) for block in (blocks[first], blocks[first + distance]))
    if {name: p.shape for name, p in earlier.items()} != {name: p.shape for name, p in later.items()}:
        raise NotApplicable(f"layers {first} and {first + distance} have different weights or shapes")
    for name, parameter in earlier.items():
        parameter.data, later[name].data = later[name].data, parameter.data
    return f"layers {first} and {first + distance} swapped"


def dropped_zero_points(site: Site) -> str:
    """Pack every layer with zero points and unpack it without them.

    The codes are read as symmetric ones around 2 ** (bits - 1). compressed-tensors packed zero points and did not
    unpack them (#458). Severity: the share of each projection's rows.
    """

    def damage(packed: Packed) -> Packed:
        middle = torch.full_like(packed.zeros, 2 ** (BITS - 1))
        return replace(packed, zeros=_first_rows(site.severity, middle, packed.zeros))

    _repack(every_projection(site.loaded), damage, symmetric=False)
    return f"zero points dropped in {100 * site.severity:.4g} % of the rows of every layer"


def zeroed_rows(site: Site) -> str:
    """Zero the first rows that feed the FFN neurons in every layer.

    Their biases are zeroed too, so these neurons are dead. Padding of a shard that takes the place of weights does
    this (Megatron-LM #7168). Severity: the share of rows.
    """
    for ffn in every_ffn(site.loaded):
        n = _count(site.severity, ffn.neurons)
        for values in (ffn.gate.weight, ffn.gate.bias):
            if values is not None:
                values[:n] = 0
    return f"{100 * site.severity:.4g} % of the FFN rows of every layer zeroed"


def duplicated_rows(site: Site) -> str:
    """Overwrite the last FFN rows of every layer with its first ones.

    Gate and up projection are both overwritten. When every rank of a sharded model loads the first shard, the last
    neurons are copies of the first (vllm-gguf-plugin #103). Severity: the share of rows that are copies, at most 0.5.
    """
    if site.severity > 0.5:
        raise ValueError(f"Expected a share of rows up to 0.5: each copy needs its original, got {site.severity:g}.")
    for ffn in every_ffn(site.loaded):
        n = _count(site.severity, ffn.neurons)
        for rows in ffn.inward:
            for values in (rows.weight, rows.bias):
                if values is not None:
                    values[-n:] = values[:n]
    return f"{100 * site.severity:.4g} % of the FFN rows of every layer replaced by copies of others"


def sharpened_logits(site: Site) -> str:
    """Multiply the output head: confidence changes, answers do not.

    A converter does this that forgets a logit scale (Granite divides by up to 16) or adds 1 to a final norm twice. A
    head that shares its weights with the embedding gets its own copy first, so that only the logits change. Severity:
    the factor.
    """
    head = site.loaded.model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise NotApplicable("the model has no linear output head")
    head.weight = nn.Parameter(head.weight.data * site.severity, requires_grad=False)
    if head.bias is not None:
        head.bias.data *= site.severity
    return f"logits multiplied by {site.severity:.4g}"


def other_fine_tune(site: Site) -> str:
    """Train the model for a few steps to give other answers.

    The release of the wrong fine-tune looks like this. Severity: the number of steps.
    """
    return train_other_answers(site.loaded, site.prompts, _whole_number(site.severity, least=1))


def three_bits(site: Site) -> str:
    """Round every linear weight of every block to 3 bits, symmetric.

    Most models need 4 bits or more. Severity: the bits.
    """
    bits = _whole_number(site.severity, least=2)
    _repack(every_projection(site.loaded), bits=bits)
    return f"every layer rounded to {bits} bits"


def four_bit_router(site: Site) -> str:
    """Round the routers of all mixtures of experts to 4 bits, symmetric.

    Recipes that quantize every linear module do this; released ones except the routers. Severity: the bits.
    """
    bits, neurons = _whole_number(site.severity, least=2), site.loaded.neurons
    routers = [find_router(neurons.blocks[layer], mixture) for layer, mixture in neurons.mixtures.items()]
    projections = [Projection(router.name, router.weight) for router in routers if router]
    if not projections:
        raise NotApplicable("the model is no mixture of experts")
    _repack(projections, bits=bits)
    return f"the routers of {len(projections)} layers rounded to {bits} bits"


def _repack(
    projections: Iterable[Projection],
    damage: Callable[[Packed], Packed] = lambda packed: packed,
    *,
    bits: int = BITS,
    symmetric: bool = True,
) -> None:
    for projection in projections:
        projection.weight.copy_(damage(pack(projection.weight, bits, symmetric=symmetric)).weight())


def _first_rows(share: float, damaged: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Replace the first rows of `original`, a share of all."""
    n = _count(share, len(original))
    return torch.cat([damaged[:n], original[n:]])


def _count(share: float, n: int) -> int:
    if not 0 < share <= 1:
        raise ValueError(f"Expected a share of rows above 0 and up to 1 as severity, got {share:g}.")
    return max(1, int(share * n))


def _whole_number(severity: float, *, least: int) -> int:
    if severity != int(severity) or severity < least:
        raise ValueError(f"Expected a whole number from {least} as severity, got {severity:g}.")
    return int(severity)

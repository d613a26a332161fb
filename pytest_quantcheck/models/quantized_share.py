"""Which part of a model's weights is quantized."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from torch import nn

from pytest_quantcheck.models.files import ModelFiles
from pytest_quantcheck.models.formats import find_layer
from pytest_quantcheck.models.layer_names import layers_around, renaming
from pytest_quantcheck.records import QuantizedShare

_LARGEST = 3


class Weight(NamedTuple):
    """One weight of a model: its parameter's or module's name, and the module that holds it."""

    name: str
    module: nn.Module
    size: int
    bytes: int
    quantized: bool = True
    is_matrix: bool = True


def quantized_share(
    weights: Sequence[Weight], blocks: Sequence[nn.Module], sizes: tuple[int, int] | None
) -> QuantizedShare:
    """Count the weights that are quantized, and those that are not.

    Args:
        weights: the model's, as `list_weights` found them.
        blocks: the model's blocks.
        sizes: bytes of the quantized weights and of all in the files; None counts those in memory.
    """
    inside = {id(module) for block in blocks for module in block.modules()}
    quantized = [weight for weight in weights if weight.quantized]
    in_blocks = [weight for weight in weights if weight.is_matrix and id(weight.module) in inside]
    plain: Counter[str] = Counter()
    for weight in weights:
        if not weight.quantized:
            plain[re.sub(r"\.\d+\b", ".*", weight.name)] += weight.size
    return QuantizedShare(
        parameters=sum(weight.size for weight in weights),
        quantized=sum(weight.size for weight in quantized),
        bytes=sizes[1] if sizes else sum(weight.bytes for weight in weights),
        quantized_bytes=sizes[0] if sizes else sum(weight.bytes for weight in quantized),
        block_parameters=sum(weight.size for weight in in_blocks),
        block_quantized=sum(weight.size for weight in in_blocks if weight.quantized),
        largest_plain=dict(plain.most_common(_LARGEST)),
    )


def file_sizes(files: ModelFiles, model: nn.Module, dequantized: Collection[str]) -> tuple[int, int] | None:
    """Count the bytes of the quantized weights and of all.

    They are read from the headers; None for pickled weights.
    """
    quantized = {*dequantized, *(name for name, module in model.named_modules() if find_layer(module))}
    tensors, rename = files.tensors, renaming(model)
    sizes = (
        tensor.nbytes for name, tensor in tensors.items() if not quantized.isdisjoint(map(rename, layers_around(name)))
    )
    return (sum(sizes), sum(tensor.nbytes for tensor in tensors.values())) if tensors else None


def list_weights(model: nn.Module, dequantized: Collection[str]) -> Iterator[Weight]:
    """Yield the weights of a model.

    A bias, and what belongs to a quantized weight, such as its scale, is no weight of its own.

    Args:
        model: the model, loaded and not yet run: bitsandbytes packs 4-bit weights in the first pass.
        dequantized: names of plain modules, and of experts' parameters, whose files hold quantized weights.
    """
    seen: set[int] = set()
    for name, module in model.named_modules():
        if layer := find_layer(module):
            yield Weight(name, module, module.in_features * module.out_features, layer.nbytes(module))
            continue
        for part, parameter in module.named_parameters(recurse=False):
            if part != "bias" and id(parameter) not in seen:
                seen.add(id(parameter))
                whole = name if part == "weight" else f"{name}.{part}".lstrip(".")
                held_quantized = whole in dequantized
                yield Weight(whole, module, parameter.numel(), parameter.nbytes, held_quantized, parameter.ndim > 1)

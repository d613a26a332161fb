"""Defects of a release's files and configuration, each as a change of a checkpoint on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import torch

from pytest_quantcheck.errors import NotApplicable
from tests.file_changes import change, hide_a_word, stop_at, without
from tests.models.stored_tensors import quantized_type, read_stored, write_stored

INDEX, TEMPLATE = "model.safetensors.index.json", "chat_template.jinja"
SHARD = "model-0000{}-of-0000{}.safetensors"
LAYER = (".layers.1.", "blk.1.")
"""What stands in the names of a block's tensors, the second in a GGUF file."""

SCALES = ("SCB", "_weight_scale", "weight_scale", "weight_scale_inv", "scales")
"""How the names of a format's scales end."""


class Defect(NamedTuple):
    """One defect; `before` changes the plain checkpoint that is quantized, `after` the release.

    What cannot carry it has no such file, or the same content with it as without, or NotApplicable is raised.
    """

    name: str
    summary: str
    before: Callable[[Path], object] | None = None
    after: Callable[[Path], object] | None = None


def _config(release: Path) -> dict[str, Any]:
    return dict(json.loads((release / "config.json").read_text()))


def _rope(plain: Path) -> None:
    rope = _config(plain)["rope_parameters"]
    change("config.json", rope_parameters=rope | {"rope_theta": rope["rope_theta"] / 10})(plain)


def _half_the_context(plain: Path) -> None:
    change("config.json", max_position_embeddings=_config(plain)["max_position_embeddings"] // 2)(plain)


def _no_window(plain: Path) -> None:
    if _config(plain).get("sliding_window") is None:
        raise NotApplicable("no sliding window")
    change("config.json", sliding_window=None)(plain)


def _in_shards(release: Path) -> dict[str, torch.Tensor]:
    """The tensors; a GGUF file stands alone."""
    if release.is_file():
        raise NotApplicable("one file")
    return read_stored(release)


def _other_numbers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tensor of a block, with other numbers."""
    name = next(name for name in tensors if LAYER[0] in name and tensors[name].is_floating_point())
    return {name: tensors[name] * 3}


def _two_sets(release: Path) -> None:
    """An index that leads to a shard of other content, beside the healthy single file."""
    tensors = _in_shards(release)
    shard = SHARD.format(1, 1)
    write_stored(release, tensors | _other_numbers(tensors), shard)
    (release / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}))


def _unnamed_shard(release: Path) -> None:
    write_stored(release, _other_numbers(_in_shards(release)), SHARD.format(2, 2))


def _other_prefix(release: Path) -> None:
    write_stored(release, {f"base_model.{name}": tensor for name, tensor in read_stored(release).items()})


def _leftover(release: Path) -> None:
    write_stored(release, read_stored(release) | {"model.layers.1.mlp.up_proj.output_scale": torch.ones(1)})


def _largest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The largest tensor of a block."""
    names = [name for name in tensors if any(part in name for part in LAYER)]
    return max(names, key=lambda name: tensors[name].nbytes)


def _missing(release: Path) -> None:
    tensors = read_stored(release)
    del tensors[_largest(tensors)]
    write_stored(release, tensors)


def _misshapen(release: Path) -> None:
    tensors = read_stored(release)
    name = _largest(tensors)
    write_stored(release, tensors | {name: tensors[name][:-1].clone()})


def _scaled(endings: Sequence[str], factor: float, where: str = "") -> Callable[[Path], None]:
    """Multiply the tensors whose names end so and are float."""

    def do(release: Path) -> None:
        tensors = _in_shards(release)
        names = [name for name in tensors if name.endswith(tuple(endings)) and where in name]
        names = [name for name in names if tensors[name].is_floating_point() and tensors[name].itemsize > 1]
        if not names:
            raise NotApplicable(f"no {endings[0]}")
        write_stored(release, tensors | {name: (tensors[name] * factor).to(tensors[name].dtype) for name in names})

    return do


def _scales_of_a_layer(release: Path) -> None:
    if release.is_dir():
        _scaled(SCALES, 1.5, LAYER[0])(release)
    else:
        _change_blocks(release, lambda scales: scales * 1.5, LAYER[1])


def _change_blocks(release: Path, alter: Callable[[torch.Tensor], torch.Tensor], where: str = "blk.") -> None:
    """Change the scales of a GGUF file's blocks, (rows, blocks) half: they come first in a block of Q4_0 and Q8_0."""
    _, size = gguf.GGML_QUANT_SIZES[quantized_type(release)]
    tensors = read_stored(release)
    for name, packed in tensors.items():
        if packed.dtype == torch.uint8 and where in name:
            blocks = packed.unflatten(1, (-1, size))
            scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
            blocks[..., :2] = alter(scales).contiguous()[..., None].view(torch.uint8)
    write_stored(release, tensors)


def _shifted(release: Path) -> None:
    """Each group's scale is its neighbour's, in every layer."""
    if release.is_file():
        _change_blocks(release, lambda scales: scales.roll(1, dims=1))
        return
    tensors = read_stored(release)
    inputs = {"weight_scale": 1, "weight_scale_inv": 1, "scales": 0}  # along which dimension the groups are
    shifted = {}
    for name, tensor in tensors.items():
        dim = inputs.get(name.rpartition(".")[2])
        if dim is not None and "proj" in name and tensor.ndim == 2 and tensor.shape[dim] > 1:
            codes = tensor.view(torch.uint8) if tensor.itemsize == 1 else tensor
            shifted[name] = codes.roll(1, dims=dim).view(tensor.dtype)
    if not shifted:
        raise NotApplicable("no scales by group")
    write_stored(release, tensors | shifted)


def _activation_scales(release: Path) -> None:
    """Static ones; a release of fp8 without any gets them, with its configuration."""
    config = _config(release)
    method = config["quantization_config"]
    if method.get("quant_method") != "fp8":
        _scaled(("input_scale",), 1 / 64)(release)
        return
    change("config.json", quantization_config=method | {"activation_scheme": "static"})(release)
    tensors = read_stored(release)
    layers = [name.removesuffix("weight_scale_inv") for name in tensors if name.endswith("weight_scale_inv")]
    write_stored(release, tensors | {f"{layer}activation_scale": torch.full((1,), 1 / 64) for layer in layers})


def _zero_points(release: Path) -> None:
    """As if the codes were symmetric."""
    tensors = _in_shards(release)
    middle = {"weight_zero_point": 0x88888888, "qzeros": 0x88888888}  # eight codes of 4 bits in an int32
    if _config(release)["quantization_config"].get("quant_method") == "gptq":
        middle["qzeros"] = 0x77777777  # one less is stored
    found = {}
    for name, tensor in tensors.items():
        code = middle.get(name.rpartition(".")[2])
        if code is not None and tensor.ndim > 1 and tensor.any():
            packed = tensor.dtype == torch.int32
            found[name] = torch.full_like(tensor, code - (code >> 31 << 32) if packed else 0)
    if not found:
        raise NotApplicable("no zero points")
    write_stored(release, tensors | found)


DEFECTS = (
    Defect("healthy", "nothing"),
    Defect("two sets of weights", "an index leads to other weights than `model.safetensors`", after=_two_sets),
    Defect("a shard beside", "a shard with other numbers that no index names", after=_unnamed_shard),
    Defect("another prefix", "every tensor's name begins with `base_model.`", after=_other_prefix),
    Defect("a tensor too many", "a scale of outputs that nothing applies", after=_leftover),
    Defect("a tensor missing", "one weight, or its codes", after=_missing),
    Defect("a tensor misshapen", "one row less", after=_misshapen),
    Defect("activation scales", "every static scale of activations divided by 64", after=_activation_scales),
    Defect("scales of a layer", "those of one layer times 1.5", after=_scales_of_a_layer),
    Defect("shifted scales", "each group's scale is its neighbour's", after=_shifted),
    Defect("zero points", "left out of every layer", after=_zero_points),
    Defect("end of an answer", "another token, in both configurations", before=stop_at(7)),
    Defect(
        "tokenizer's end",
        "another token ends a text",
        before=change("tokenizer_config.json", eos_token="<unk>"),
    ),
    Defect("no generation settings", "`generation_config.json` is missing", after=without("generation_config.json")),
    Defect("rotary base", "`rope_theta` a tenth", before=_rope),
    Defect("norm", "`rms_norm_eps` 0.1", before=change("config.json", rms_norm_eps=0.1)),
    Defect("activation function", "`hidden_act` gelu", before=change("config.json", hidden_act="gelu")),
    Defect("context", "`max_position_embeddings` a half", before=_half_the_context),
    Defect("sliding window", "the model attends to everything", before=_no_window),
    Defect("hidden word", "a word of the vocabulary is a special token", before=hide_a_word),
    Defect("chat template", "another one", before=lambda plain: (plain / TEMPLATE).write_text("{{ messages }}")),
)

"""Each kind of tensor in a file of each format: damage changes the measurement, or the file is refused by name."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.formats.gguf_header import read_header
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from tests.models.gguf_files import write_gguf
from tests.models.releases import RELEASES, logits_of, needs, read_tensors

PROJECTION = "model.layers.1.mlp.up_proj."
OPTIONAL = {"weight_format"}
"""What early files do not have."""

PARTS = {
    "Q8_0": {"scale": 0, "codes": 2},
    "Q5_1": {"scale": 0, "minimum": 2, "high bits": 4, "codes": 8},
    "Q5_0": {"scale": 0, "high bits": 2, "codes": 6},
    "Q4_1": {"scale": 0, "minimum": 2, "codes": 4},
    "Q4_0": {"scale": 0, "codes": 2},
    "MXFP4": {"exponent": 0, "codes": 1},
}
"""Where each part begins in a block of 32 weights of a GGUF file, in bytes, by the format's definition."""


@pytest.fixture
def rewritten(released, tmp_path):
    """Makes a copy of a release with other tensors."""

    def make(name, tensors):
        folder, _ = released(name)
        copy = Path(shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True))
        with safe_open(folder / "model.safetensors", "pt") as file:
            save_file(tensors, copy / "model.safetensors", metadata=file.metadata())
        return Source(str(copy), device="cpu")

    return make


def answers(source):
    """The logits of a release."""
    with load(source, "released") as loaded:
        return logits_of(loaded.model)


def parts_of(tensors):
    """What the file holds for one projection: the ends of the names."""
    return [name.removeprefix(PROJECTION) for name in tensors if name.startswith(PROJECTION)]


def damage(tensor):
    """Other numbers of the same type and shape: floats by half as much again, one bit of each code."""
    if tensor.dtype == torch.float8_e4m3fn:
        return (tensor.view(torch.uint8) ^ 8).view(tensor.dtype)
    return tensor * 1.5 if tensor.is_floating_point() else tensor ^ 1


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")  # the formats' libraries warn of their own future
@pytest.mark.parametrize("name", [needs(name) for name in RELEASES])
def test_damage_is_measured_or_refused(released, rewritten, name):
    """Nothing that the file holds for a quantized weight is left out without a word."""
    folder, _ = released(name)
    tensors = read_tensors(folder)
    healthy = answers(Source(str(folder), device="cpu"))
    assert torch.equal(answers(rewritten(name, tensors)), healthy), "a copy that nobody damaged"
    for part in parts_of(tensors):
        damaged = {key: damage(tensor) if key.endswith(f"_proj.{part}") else tensor for key, tensor in tensors.items()}
        try:
            changed = not torch.equal(answers(rewritten(name, damaged)), healthy)
        except ModelError as refusal:
            changed = f"_proj.{part}" in str(refusal)
        assert changed, part


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [needs(name) for name in RELEASES])
def test_missing_or_misshapen_part_is_refused_by_name(released, rewritten, name):
    """Neither codes nor scales are made up, and what a library says of them is not what a user reads."""
    tensors = read_tensors(released(name)[0])
    for part in parts_of(tensors):
        key = PROJECTION + part
        rest = {other: tensor for other, tensor in tensors.items() if other != key}
        cases = [] if part in OPTIONAL else [rest]
        if tensors[key].ndim:
            cases.append(rest | {key: tensors[key][:-1].clone()})
        for case in cases:
            with pytest.raises(ModelError, match=re.escape(PROJECTION)) as refusal:
                load(rewritten(name, case), "released")
            assert "above report" not in str(refusal.value)
            assert "normal_kernel" not in str(refusal.value)


def flip(path, header, tensor, *, at, step, bit):
    """Flip a bit of every block of a tensor of a GGUF file; `at`: its byte in a block of so many bytes."""
    content = bytearray(path.read_bytes())
    start = header.data_start + tensor.offset
    for place in range(start + at, start + tensor.size, step):
        content[place] ^= bit
    damaged = path.with_name("damaged.gguf")
    damaged.write_bytes(content)
    return Source(str(damaged), device="cpu")


@pytest.mark.ci
@pytest.mark.parametrize("kind", PARTS)
def test_every_part_of_a_gguf_block_is_used(two_blocks, tmp_path, kind):
    """Scales, minima, high bits and codes of each type stand in one tensor, block after block."""
    path = write_gguf(two_blocks, tmp_path / "model.gguf", kind)
    healthy, header = answers(Source(str(path), device="cpu")), read_header(path)
    tensor = header.tensors["blk.1.ffn_up.weight"]
    for part, at in PARTS[kind].items():
        bit = 1 if part == "exponent" else 0x80
        damaged = flip(path, header, tensor, at=at, step=tensor.size * 32 // tensor.weights, bit=bit)
        assert not torch.equal(answers(damaged), healthy), part


@pytest.mark.ci
def test_every_tensor_of_a_gguf_file_is_used(two_blocks, tmp_path):
    """Those of one block, and those that are there once; norms are float32, of which the highest mantissa bit flips."""
    path = write_gguf(two_blocks, tmp_path / "model.gguf", "Q8_0")
    healthy, header = answers(Source(str(path), device="cpu")), read_header(path)
    names = [name for name in header.tensors if not name.startswith("blk.0.")]
    assert len(names) == 12
    assert torch.equal(answers(Source(str(path), device="cpu")), healthy), "the same file again"
    for name in names:
        tensor = header.tensors[name]
        place = {"at": 2, "step": 34, "bit": 0x40} if tensor.quantized else {"at": 2, "step": 4, "bit": 0x40}
        assert not torch.equal(answers(flip(path, header, tensor, **place)), healthy), name


@pytest.mark.parametrize("name", ["fp4", "nf4"])
def test_type_of_four_bits_is_the_default_where_none_is_named(released, rewritten, name):
    """A release that does not name its type is of bitsandbytes' default, fp4; one of another type is refused."""
    folder, _ = released(name)
    source = rewritten(name, read_tensors(folder))
    path = Path(source.model) / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]["bnb_4bit_quant_type"]
    path.write_text(json.dumps(config))
    if name == "fp4":
        assert torch.equal(answers(source), answers(Source(str(folder), device="cpu")))
    else:
        with pytest.raises(ModelError, match=r"quant_state\.bitsandbytes__fp4"):
            load(source, "released")


@pytest.mark.parametrize(
    "change",
    [
        {"blocksize": 128},
        {"shape": [64, 256]},
        {"shape": [128, 300]},
        {"quant_type": "fp4"},
        {"nested_blocksize": 128},
        {"unheard_of": 1},
        {"shape": "wide"},
        {"shape": None},
        {"blocksize": 0},
    ],
)
def test_description_of_four_bits_agrees_with_what_it_describes(released, rewritten, change):
    """The JSON beside each weight: another shape of as many numbers is seen once it is loaded, the rest before."""
    tensors = read_tensors(released("nf4")[0])
    name = f"{PROJECTION}weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[name].tolist())) | change
    damaged = tensors | {name: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}
    with pytest.raises(ModelError, match=r"up_proj\.weight"):
        load(rewritten("nf4", damaged), "released")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["input_scale", "output_scale", "g_idx"])
@pytest.mark.parametrize("name", [needs(name) for name in ["int8", "nf4", "torchao-weight", "W4A16", "fp8"]])
def test_part_that_is_not_taken_is_refused_by_name(released, rewritten, name, part):
    """A scale that nothing applies."""
    tensors = read_tensors(released(name)[0])
    with pytest.raises(ModelError, match=rf"hold {PROJECTION}{part}, which .* does not take"):
        load(rewritten(name, tensors | {PROJECTION + part: torch.ones(1)}), "released")

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
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from tests.models.releases import RELEASES, logits_of, needs, read_tensors, write

PROJECTION = "model.layers.1.mlp.up_proj."
OPTIONAL = {"weight_format"}
"""What early files do not have."""


@pytest.fixture(scope="module")
def releases(two_blocks, tmp_path_factory):
    """Makes a release in a format once; returns its folder, its tensors and what else its file says."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write(RELEASES[name], two_blocks, folder)
            with safe_open(folder / "model.safetensors", "pt") as file:
                made[name] = folder, read_tensors(folder), file.metadata()
        return made[name]

    return make


@pytest.fixture
def rewritten(releases, tmp_path):
    """Makes a copy of a release with other tensors."""

    def make(name, tensors):
        folder, _, metadata = releases(name)
        copy = Path(shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True))
        save_file(tensors, copy / "model.safetensors", metadata=metadata)
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
def test_damage_is_measured_or_refused(releases, rewritten, name):
    """Nothing that the file holds for a quantized weight is left out without a word."""
    folder, tensors, _ = releases(name)
    healthy = answers(Source(str(folder), device="cpu"))
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
def test_missing_or_misshapen_part_is_refused_by_name(releases, rewritten, name):
    """Neither codes nor scales are made up, and what a library says of them is not what a user reads."""
    _, tensors, _ = releases(name)
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


@pytest.mark.parametrize("name", ["fp4", "nf4"])
def test_type_of_four_bits_is_the_default_where_none_is_named(releases, rewritten, name):
    """A release that does not name its type is of bitsandbytes' default, fp4; one of another type is refused."""
    folder, tensors, _ = releases(name)
    source = rewritten(name, tensors)
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
def test_description_of_four_bits_agrees_with_what_it_describes(releases, rewritten, change):
    """The JSON beside each weight: another shape of as many numbers is seen once it is loaded, the rest before."""
    _, tensors, _ = releases("nf4")
    name = f"{PROJECTION}weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[name].tolist())) | change
    damaged = tensors | {name: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}
    with pytest.raises(ModelError, match=r"up_proj\.weight"):
        load(rewritten("nf4", damaged), "released")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["input_scale", "output_scale", "g_idx"])
@pytest.mark.parametrize("name", [needs(name) for name in ["int8", "nf4", "torchao-weight", "W4A16", "fp8"]])
def test_part_that_is_not_taken_is_refused_by_name(releases, rewritten, name, part):
    """A scale that nothing applies."""
    _, tensors, _ = releases(name)
    with pytest.raises(ModelError, match=rf"hold {PROJECTION}{part}, which .* does not take"):
        load(rewritten(name, tensors | {PROJECTION + part: torch.ones(1)}), "released")

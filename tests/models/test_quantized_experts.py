"""Experts that a release holds one by one are one parameter in the model, and quantized all the same."""

import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.file_checks import CHECKS
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.formats.compressed_tensors import COMPRESSED_TENSORS
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from tests.models.releases import RELEASES, needs, read_tensors, write
from tests.models.stored_tensors import read_stored, write_stored
from tests.upcycled import upcycle

EXPERTS, WIDTH, FFN, BLOCKS = 4, 128, 384, 2
IN_BLOCKS = BLOCKS * (4 * WIDTH * WIDTH + EXPERTS * 3 * WIDTH * FFN)
ROUTERS = BLOCKS * EXPERTS * WIDTH


@pytest.fixture(scope="module")
def mixtral(two_blocks, tmp_path_factory):
    """A Mixtral of four experts a block, whose files call their layers w1, w2 and w3."""
    return upcycle(two_blocks, tmp_path_factory.mktemp("mixtral"), experts=EXPERTS, noise=0.3)


@pytest.fixture(scope="module")
def qwen(two_blocks, tmp_path_factory):
    """A Qwen3-MoE, whose files call them gate_proj, up_proj and down_proj."""
    place = tmp_path_factory.mktemp("qwen")
    dense = AutoModelForCausalLM.from_pretrained(two_blocks).config
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    kept = {name: getattr(dense, name) for name in same}
    experts = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": FFN, "mlp_only_layers": []}
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**kept, **experts)).to(torch.bfloat16).save_pretrained(place)
    AutoTokenizer.from_pretrained(two_blocks).save_pretrained(place)
    return place


@pytest.mark.parametrize("name", ["fp8", needs("W4A16")])
@pytest.mark.parametrize("kind", ["mixtral", "qwen"])
def test_experts_are_dequantized_and_counted(request, name, kind, tmp_path):
    """The model's are what the files stand for, by the format's definition; all but the routers count as quantized."""
    write(RELEASES[name], request.getfixturevalue(kind), tmp_path)
    stored = read_tensors(tmp_path)
    experts = sorted({match[0] for match in map(re.compile(r".*\.experts\.").match, stored) if match})
    gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    with load(Source(str(tmp_path), device="cpu"), "released") as loaded:
        for block, prefix in zip(loaded.model.model.layers, experts, strict=True):
            for number in range(EXPERTS):
                weights = {part: RELEASES[name].read(stored, f"{prefix}{number}.{part}") for part in (gate, up, down)}
                both = block.mlp.experts.gate_up_proj[number].float()
                assert torch.equal(both, torch.cat([weights[gate], weights[up]]).bfloat16().float())
                assert torch.equal(block.mlp.experts.down_proj[number].float(), weights[down].bfloat16().float())
        share = loaded.quantized_share
    assert (share.block_parameters, share.block_quantized) == (IN_BLOCKS + ROUTERS, IN_BLOCKS)
    assert share.quantized_bytes == sum(tensor.nbytes for tensor in _quantized(stored))
    assert not any("experts" in part for part in share.largest_plain)


def _quantized(stored):
    """Everything of projections and experts."""
    return (tensor for name, tensor in stored.items() if "_proj." in name or ".experts." in name)


@pytest.mark.parametrize("name", [needs("W4A16-asymmetric"), needs("W8A8")])
def test_experts_that_nothing_reads_are_refused(name, mixtral, tmp_path):
    """Zero points of experts would be left out; experts beside quantized layers fail in torch's own words."""
    write(RELEASES[name], mixtral, tmp_path)
    with pytest.raises(
        ModelError, match=r"^\S+: model\S+experts\.0\.w1\.weight\w* is of an expert.* or another format$"
    ):
        load(Source(str(tmp_path), device="cpu"), "released")


@pytest.mark.parametrize("name", ["fp8", needs("W4A16")])
def test_a_scale_that_one_expert_lacks_is_named(name, mixtral, tmp_path):
    """Transformers pairs codes with scales in their order: all behind it would be scaled by another's."""
    write(RELEASES[name], mixtral, tmp_path)
    stored = read_stored(tmp_path)
    scale = next(one for one in stored if re.search(r"layers\.1\..*experts\.2\.w3\.weight_scale", one))
    write_stored(tmp_path, {one: tensor for one, tensor in stored.items() if one != scale})
    with pytest.raises(ModelError, match=f"the files lack {re.escape(scale)}, which other experts have"):
        _against_the_weights(tmp_path, "released")


def test_schemes_without_a_packed_weight_say_nothing_of_a_model():
    """Of however many schemes, for the error that says so."""
    groups = {"one": {"weights": {"num_bits": 4}}, "two": {"weights": {"num_bits": 8}}}
    for found in ({}, groups):
        assert COMPRESSED_TENSORS.stored_types({"a.weight": "F32"}, {"config_groups": found}, None) == {}
    assert COMPRESSED_TENSORS.stored_types({"a.weight_packed": "I32"}, {"config_groups": groups}, None) == {
        "a": "W4A16 and W8A16"
    }


def _against_the_weights(folder, load_as):
    """Run the check of the configuration against the weights."""
    check = next(check for check in CHECKS if check.title == "configuration against the weights")
    check.run(resolve_files(Source(str(folder))), load_as)


LACKS = r"the files lack model\.layers\.1\.\S+\.experts\.2\.w3\.weight"
SHAPE = r"experts\.2\.w3\.weight\S* is of shape \(\d+, \d+\), and of other experts \(\d+, \d+\)"


@pytest.mark.parametrize("name", ["plain", "int8", "fp8", needs("W4A16")])
@pytest.mark.parametrize("message", [LACKS, SHAPE], ids=["lacks", "shape"])
def test_expert_unlike_the_others_is_named(name, message, mixtral, tmp_path):
    """One without a weight, or with a weight of another shape; torch would speak of sizes when it stacks them."""
    if name == "plain":
        shutil.copytree(mixtral, tmp_path, dirs_exist_ok=True)
    else:
        write(RELEASES[name], mixtral, tmp_path)
    stored = read_stored(tmp_path)
    (weight,) = [one for one in stored if re.search(r"layers\.1\..*experts\.2\.w3\.weight(_packed)?$", one)]
    if message == SHAPE:
        write_stored(tmp_path, stored | {weight: stored[weight][:-1].clone()})
    else:
        layer = weight.rpartition(".")[0]
        write_stored(tmp_path, {one: tensor for one, tensor in stored.items() if not one.startswith(f"{layer}.")})
    with pytest.raises(ModelError, match=message):
        _against_the_weights(tmp_path, "reference" if name == "plain" else "released")

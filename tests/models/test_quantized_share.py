"""Which part of a candidate's weights is quantized is counted, from the model and from the headers."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.quantized_share import list_weights, quantized_share
from pytest_quantcheck.models.source import Source
from tests.models.gguf_files import write_gguf
from tests.models.releases import RELEASES, write

WIDTH, FFN, VOCABULARY, BLOCKS = 128, 384, 256, 2
LINEAR = BLOCKS * (4 * WIDTH * WIDTH + 3 * WIDTH * FFN)
NORMS = (2 * BLOCKS + 1) * WIDTH
ALL = LINEAR + NORMS + 2 * VOCABULARY * WIDTH
ROWS = BLOCKS * (4 * WIDTH + 2 * FFN + WIDTH)


def share_of(source, load_as="released"):
    """The share of a model that is loaded."""
    with load(source, load_as) as loaded:
        return loaded.quantized_share


def test_reference_has_none(two_blocks):
    """Nothing of it is quantized, also in another float format."""
    source = Source(str(two_blocks), device="cpu")
    assert share_of(source, "reference") is None
    assert share_of(source, "fp16") is None


def test_share_at_a_bit_width(two_blocks):
    """One byte for each code, four for each row's scale; the rest is in bfloat16."""
    share = share_of(Source(str(two_blocks), device="cpu"), "int8")
    assert (share.parameters, share.quantized) == (ALL, LINEAR)
    assert (share.block_parameters, share.block_quantized) == (LINEAR, LINEAR)
    assert share.quantized_bytes == LINEAR + 4 * ROWS
    assert share.bytes == share.quantized_bytes + 2 * (ALL - LINEAR)
    assert list(share.largest_plain)[:2] == ["model.embed_tokens", "lm_head"]
    assert share.largest_plain["lm_head"] == VOCABULARY * WIDTH


def test_share_of_four_bits(two_blocks):
    """Two codes in a byte; a byte for each block of 64, and four for each 256 of those, by layer."""
    share = share_of(Source(str(two_blocks), device="cpu"), "nf4")
    sizes = BLOCKS * (4 * [WIDTH * WIDTH] + 3 * [WIDTH * FFN])
    assert share.quantized_bytes == sum(size // 2 + size // 64 + 4 * -(-size // 64 // 256) for size in sizes)


def test_share_of_files(two_blocks, tmp_path):
    """Of float8 that is dequantized on loading the file's bytes count: one for each code, four for each scale."""
    write(RELEASES["fp8"], two_blocks, tmp_path)
    share = share_of(Source(str(tmp_path), device="cpu"))
    assert (share.parameters, share.quantized) == (ALL, LINEAR)
    assert share.quantized_bytes == LINEAR + 4 * LINEAR // 64**2
    assert share.bytes == share.quantized_bytes + 2 * (ALL - LINEAR)


def test_share_of_a_gguf_file(two_blocks, tmp_path):
    """Its embeddings are quantized too, in its own blocks of 32: 18 bytes of Q4_0, 34 of Q8_0; norms are float32."""
    path = write_gguf(two_blocks, tmp_path / "model.gguf", "Q4_0", embedding="Q8_0")
    share = share_of(Source(str(path), device="cpu"))
    assert (share.parameters, share.quantized) == (ALL, ALL - NORMS)
    assert share.quantized_bytes == LINEAR // 32 * 18 + 2 * VOCABULARY * WIDTH // 32 * 34
    assert share.bytes == share.quantized_bytes + 4 * NORMS


def test_tied_embedding_counts_once(two_blocks, tmp_path):
    """It is one weight with two names."""
    model = AutoModelForCausalLM.from_pretrained(two_blocks, dtype="auto")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(two_blocks).save_pretrained(tmp_path)
    share = share_of(Source(str(tmp_path), device="cpu"), "int8")
    assert share.parameters == ALL - VOCABULARY * WIDTH


class Packed(nn.Module):
    """A layer of GPT-QModel as far as it is counted: codes, zero points and scales, and nothing called `weight`."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features = 64, 32
        self.register_buffer("qweight", torch.zeros(8, 32, dtype=torch.int32))
        self.register_buffer("qzeros", torch.zeros(2, 4, dtype=torch.int32))
        self.register_buffer("scales", torch.zeros(2, 32, dtype=torch.float16))


def test_layer_without_a_weight_is_counted():
    """Its size is that of what it stands for, its bytes those of what it holds."""
    model = nn.Sequential(Packed(), nn.Linear(32, 8, bias=True))
    share = quantized_share(list(list_weights(model, ())), [model[0]], None)
    assert (share.parameters, share.quantized) == (64 * 32 + 32 * 8, 64 * 32)
    assert (share.bytes, share.quantized_bytes) == (8 * 32 * 4 + 2 * 4 * 4 + 2 * 32 * 2 + 32 * 8 * 4, 1184)
    assert (share.block_parameters, share.block_quantized) == (64 * 32, 64 * 32)


@pytest.mark.parametrize("attention", [[], ["q_proj", "k_proj"]])
def test_what_is_excepted_is_not_quantized(two_blocks, tmp_path, attention):
    """The layers that a configuration excepts stay as they were, and are named by block."""
    left = ["gate_proj", "up_proj", "down_proj", "lm_head", *attention]
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left)
    model = AutoModelForCausalLM.from_pretrained(
        two_blocks, quantization_config=config, device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(two_blocks).save_pretrained(tmp_path)
    share = share_of(Source(str(tmp_path), device="cpu"))
    assert share.block_parameters == LINEAR
    assert share.block_quantized == BLOCKS * (4 - len(attention)) * WIDTH * WIDTH
    assert "model.layers.*.mlp.up_proj" in share.largest_plain

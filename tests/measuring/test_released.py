"""A released checkpoint is measured like any other candidate, and its record says what it was."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source

SETTINGS = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


@pytest.fixture
def saved(tmp_path):
    """Saves the built-in model in float32 as bitsandbytes quantizes it."""

    def save(bits):
        config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **SETTINGS[bits])
        model = AutoModelForCausalLM.from_pretrained(
            builtin.DIRECTORY, quantization_config=config, device_map={"": "cpu"}, dtype=torch.float32
        )
        model.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(builtin.DIRECTORY).save_pretrained(tmp_path)
        return Source(str(tmp_path), device="cpu")

    return save


@pytest.fixture(scope="module")
def measured(run, prompts, reference):
    """Measures a candidate."""
    return lambda loaded: run(loaded, prompts, reference=reference)


@pytest.mark.parametrize("bits", SETTINGS)
def test_released_checkpoint_measures_as_the_same_bits_made_here(measured, saved, quantized, bits):
    """Answers and salient neurons are those of the reference quantized while loading, bit for bit."""
    expected = measured(quantized[bits])
    with load(saved(bits), "released") as loaded:
        obtained = measured(loaded)
    assert np.array_equal(obtained.answers.log_probs, expected.answers.log_probs)
    assert all(np.array_equal(obtained.saliency[layer].salient, expected.saliency[layer].salient) for layer in (2, 5))
    record = obtained.provenance
    assert (record.bits, record.format, record.dtype) == ("released", f"bitsandbytes {bits}", "fp32")
    assert record.module_types == expected.provenance.module_types
    assert record.gradient_path == expected.provenance.gradient_path
    assert record.content_hash != expected.provenance.content_hash

"""The text model inside a multimodal wrapper is gated as if it stood alone, and what lies around it is named."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Mistral3Config,
)

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.pretrained import auto_class
from pytest_quantcheck.options.candidate import Released
from pytest_quantcheck.run.gate import Gate
from tests.gates import CountingGate, settings
from tests.tiny_models import CONFIGS


@pytest.fixture(scope="session")
def wrapped(tmp_path_factory):
    """The built-in model as the text model of a Mistral 3, which computes what a Llama does."""
    alone = AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, dtype="auto")
    text = alone.config.to_dict() | {"model_type": "mistral", "sliding_window": None}
    vision = CONFIGS["mistral3"][1]["vision_config"]
    config = Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
    model = AutoModelForMultimodalLM.from_config(config, dtype=torch.bfloat16)
    model.model.language_model.load_state_dict(alone.model.state_dict())
    model.lm_head.load_state_dict(alone.lm_head.state_dict())
    folder = tmp_path_factory.mktemp("wrapped")
    for part in (model, alone.generation_config, AutoTokenizer.from_pretrained(builtin.DIRECTORY)):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quantized(wrapped, tmp_path_factory):
    """The same, released as LLM.int8() with its vision tower as it was."""
    return release(wrapped, tmp_path_factory.mktemp("wrapped-int8"))


def release(folder, place):
    """Quantize a model as its own library does, and save it with its tokenizer."""
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "vision_tower"])
    auto = auto_class(AutoConfig.from_pretrained(folder))
    auto.from_pretrained(folder, quantization_config=config).save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def test_wrapper_changes_no_number(wrapped):
    """Loaded at a bit-width; and the parts that were not measured are told."""
    alone, inside = (Gate(settings(model=str(model))).compare("int8") for model in ("builtin", wrapped))
    assert inside.estimates == alone.estimates
    outside = [note for note in inside.notes if note.startswith("not measured, because prompts are text: ")]
    assert "model.vision_tower (" in outside[0]
    assert "model.multi_modal_projector (" in outside[0]
    assert inside.candidate_provenance.architecture == "Mistral3ForConditionalGeneration"
    assert not any(note.startswith("not measured") for note in alone.notes)


def test_release_of_a_wrapper_is_gated(wrapped, quantized):
    """As it was saved: its wrapper, and its text model quantized."""
    gate = Gate(settings(model=str(wrapped), bits=(), candidate=(Released(str(quantized)),)))
    comparison = gate.compare(quantized.name)
    loaded = Gate(settings(model=str(wrapped))).compare("int8")
    assert comparison.estimates == loaded.estimates
    assert comparison.conditions == ()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"vision_config": {"patch_size": 7}}, r"would not be served .*wrapper\.vision_config\.patch_size is 7, .* 14"),
        ({"image_token_index": 11}, r"would not be served .*wrapper\.image_token_id is 11, the reference's 10"),
        ({"text_config": {"rms_norm_eps": 0.1}}, r"is not the reference quantized: config\.rms_norm_eps is 0.1"),
    ],
)
def test_wrapper_that_is_served_otherwise_is_refused(wrapped, quantized, tmp_path, changed, says):
    """No prompt shows what decides how an image is read."""
    candidate = shutil.copytree(quantized, tmp_path / "release")
    config = json.loads((candidate / "config.json").read_text())
    for name, value in changed.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    (candidate / "config.json").write_text(json.dumps(config))
    gate = CountingGate(settings(model=str(wrapped), bits=(), candidate=(Released(str(candidate)),)))
    with pytest.raises(ModelError, match=says):
        gate.compare("release")
    assert gate.loads == []


@pytest.mark.ci
def test_text_model_released_alone_is_another_service(wrapped, tmp_path):
    """It computes the same and reads no images: refused unless that is meant."""
    inside = AutoModelForMultimodalLM.from_pretrained(wrapped)
    text = inside.config.text_config
    text.architectures = ["MistralForCausalLM"]
    alone = AutoModelForCausalLM.from_config(text, dtype=torch.bfloat16)
    alone.model.load_state_dict(inside.model.language_model.state_dict())
    alone.lm_head.load_state_dict(inside.lm_head.state_dict())
    for part in (alone, inside.generation_config, AutoTokenizer.from_pretrained(wrapped)):
        part.save_pretrained(tmp_path / "text")
    release(tmp_path / "text", tmp_path / "release")
    candidate = {"model": str(wrapped), "bits": (), "candidate": (Released(str(tmp_path / "release")),)}
    with pytest.raises(ModelError, match=r"would not be served .*--quantcheck-allow-difference=config\.architectures$"):
        CountingGate(settings(**candidate)).compare("release")
    comparison = Gate(settings(**candidate, allow_difference=("config.architectures",))).compare("release")
    assert comparison.estimates == Gate(settings(model=str(wrapped))).compare("int8").estimates
    assert not any(note.startswith("not measured") for note in comparison.notes)

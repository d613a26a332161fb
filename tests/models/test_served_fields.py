"""What a model's files say of how it is computed and served, in standard names and one spelling."""

import dataclasses
import re
from hashlib import sha256

import pytest
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.served_fields import config_fields, served_fields
from pytest_quantcheck.models.source import Source
from tests.tiny_models import CONFIGS, make


@pytest.fixture
def described(save, tmp_path):
    """Describes a tiny model, saved after these changes of its configuration."""

    def describe(name, **changes):
        model = make(name)
        for field, value in changes.items():
            setattr(model.config, field, value)
        folder = save(model, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        return served_fields(resolve_files(Source(str(folder), device="cpu")), "reference")

    return describe


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_states_its_shape_under_standard_names(described, name):
    """Whatever its configuration calls them."""
    fields = described(name)
    assert fields["config.hidden_size"] == "64"
    assert fields["config.num_hidden_layers"] == "3"
    assert fields["config.num_attention_heads"] == "4"
    assert fields["tokenizer.eos_token_id"] == "2"
    assert not {name for name in fields if "dropout" in name or name.endswith(("dtype", "use_cache", "label"))}


def test_values_have_one_spelling(described):
    """Floats as 32 bits hold them, whole ones as integers, so that a GGUF file's can be compared."""
    fields = described("llama", rms_norm_eps=9.999999747378752e-06)
    assert fields["config.rms_norm_eps"] == "1e-05"
    assert fields["config.rope_parameters.rope_theta"] == "10000"
    assert fields["config.hidden_act"] == "silu"


def test_all_that_an_architecture_computes_with_is_stated(described):
    """Soft caps, scales, windows and the types of layers."""
    fields = described("gemma2")
    assert fields["config.final_logit_softcapping"] == "3"
    assert fields["config.sliding_window"] == "4"
    assert fields["config.layer_types"] == '["sliding_attention", "full_attention", "sliding_attention"]'
    assert "config.query_pre_attn_scalar" in fields
    assert described("gemma2", query_pre_attn_scalar=7)["config.query_pre_attn_scalar"] == "7"


def test_windows_that_no_layer_has_are_not_stated_twice(described):
    """The types of the layers say what the older fields say."""
    fields = described("qwen2", max_window_layers=1)
    assert fields == described("qwen2")
    assert fields["config.layer_types"] == '["full_attention", "full_attention", "full_attention"]'


def test_field_that_the_class_does_not_know_is_left_out(described):
    """Another program put it there."""
    assert described("llama", unsloth_fixed=True) == described("llama")


def test_each_of_several_chat_templates_is_stated(save, tmp_path):
    """One for tools beside the default."""
    folder = save(make("llama"), tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    fields = served_fields(resolve_files(Source(str(folder), device="cpu")), "reference")
    for name, text in (("chat_template", "{{ messages }}"), ("chat_template.tool_use", "{{ tools }}")):
        assert fields[f"tokenizer.{name}"] == sha256(text.encode()).hexdigest()


OF_EXPERTS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
OF_EXPERTS |= {"vocab_size": 96, "intermediate_size": 32, "moe_intermediate_size": 16, "num_experts_per_tok": 2}


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3"])
def test_number_and_use_of_experts_are_stated(save, tmp_path, kind):
    """Whatever the class calls them, and wherever it keeps them."""

    def describe(**changes):
        config = AutoConfig.for_model(kind, **OF_EXPERTS | {"num_experts": 24, "num_local_experts": 24} | changes)
        folder = save(AutoModelForCausalLM.from_config(config), tmp_path / str(len(list(tmp_path.iterdir()))))
        return served_fields(resolve_files(Source(str(folder), device="cpu")), "reference")

    before = describe()
    assert [name for name in before if before[name] == "24"] in (["config.num_experts"], ["config.num_local_experts"])
    for changes in ({"num_experts": 32, "num_local_experts": 32}, {"num_experts_per_tok": 1}):
        assert len(set(describe(**changes).items()) - set(before.items())) == 1


NO_PART = re.compile("drop|init|mtp|nextn|pretraining_tp|chunk_size_feed_forward|summary|window_layers|window_pattern")
"""Of training, memory and speed, of other heads, or said by the types of the layers."""


@pytest.mark.parametrize("kind", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_number_in_any_configuration_is_stated(kind):
    """Wherever a class of the library keeps it: another number is another statement."""
    try:
        config = AutoConfig.for_model(kind).get_text_config(decoder=True)
    except Exception as error:
        pytest.skip(f"transformers makes none without arguments: {type(error).__name__}")
    before, silent = dict(config_fields(config)), []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name) if field.name not in (config.per_layer_attributes or ()) else None
        if type(value) is int and not NO_PART.search(field.name):
            setattr(config, field.name, value + 1)
            silent += [field.name] * (dict(config_fields(config)) == before)
            setattr(config, field.name, value)
    assert not silent


def test_tokens_that_end_an_answer_have_no_order(described):
    """Nor is one token another thing in brackets."""
    assert described("llama", eos_token_id=[5, 2]) == described("llama", eos_token_id=[2, 5])
    assert described("llama", eos_token_id=[5, 2]) != described("llama", eos_token_id=2)
    assert described("llama", eos_token_id=[2]) == described("llama", eos_token_id=2)

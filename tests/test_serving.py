"""Two configurations: what both state is compared, and each difference has one meaning."""

import pytest

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.serving import refuse_unlike

BEFORE = {
    "config.eos_token_id": "1",
    "config.rope_parameters.rope_theta": "10000",
    "generation_config.json": "present",
    "generation_config.temperature": "0.6",
    "tokenizer.vocabulary": "a" * 64,
}


def test_only_what_both_state_is_compared():
    """A GGUF file states little."""
    refuse_unlike("it", BEFORE, BEFORE)
    refuse_unlike("it", BEFORE, {"config.eos_token_id": "1"})
    refuse_unlike("it", {}, BEFORE)


def test_other_function_is_refused_whatever_is_allowed():
    """Beside what is served otherwise, with both values, so that nobody has to mend one to hear of the next."""
    after = BEFORE | {"config.rope_parameters.rope_theta": "1000", "generation_config.temperature": "null"}
    with pytest.raises(ModelError) as refused:
        refuse_unlike("it", BEFORE, after)
    assert str(refused.value) == (
        "it is not the reference quantized: config.rope_parameters.rope_theta is 1000, the reference's 10000; "
        "generation_config.temperature is null, the reference's 0.6. Compare the checkpoint with what it was made "
        "from, or name another reference."
    )


def test_other_service_is_refused_unless_it_is_meant():
    """The message ends with the options that say so."""
    after = BEFORE | {"config.eos_token_id": "7", "generation_config.temperature": "1"}
    with pytest.raises(ModelError) as refused:
        refuse_unlike("it", BEFORE, after)
    told = str(refused.value)
    assert told.startswith("it would not be served as the reference is: config.eos_token_id is 7, the reference's 1; ")
    options = [word for word in told.split() if word.startswith("--")]
    assert options == [
        "--quantcheck-allow-difference=config.eos_token_id",
        "--quantcheck-allow-difference=generation_config.temperature",
    ]
    refuse_unlike("it", BEFORE, after, ("config.eos_token_id", "generation_config.temperature"))


def test_missing_generation_config_is_one_difference():
    """And none where the reference has none: libraries write one that repeats config.json."""
    missing = BEFORE | {"generation_config.json": "missing", "generation_config.temperature": "null"}
    with pytest.raises(ModelError, match=r"is: generation_config.json is missing, the reference's present\. Rel"):
        refuse_unlike("it", BEFORE, missing)
    refuse_unlike("it", missing, missing | {"generation_config.json": "present"})
    with pytest.raises(ModelError, match=r"generation_config\.temperature is 0\.6, the reference's null"):
        refuse_unlike("it", missing, BEFORE)


def test_part_that_one_directory_lacks_is_null_there():
    """A scale of the rotary embedding, and a chat template for tools; fields of newer libraries are no difference."""
    part = {"config.rope_parameters.attention_factor": "0.5"}
    with pytest.raises(ModelError, match=r"attention_factor is null, the reference's 0\.5"):
        refuse_unlike("it", BEFORE | part, BEFORE)
    with pytest.raises(ModelError, match=r"attention_factor is 0\.5, the reference's null"):
        refuse_unlike("it", BEFORE, BEFORE | part)
    refuse_unlike("it", BEFORE | part, {"config.eos_token_id": "1"})  # a GGUF file
    refuse_unlike("it", BEFORE, BEFORE | {"config.new_scale": "2", "config.rope_parameters.attention_factor": "null"})


def test_token_that_the_reference_lacks_has_no_effect():
    """Programs that quantize add a padding token, and GGUF files state a first token that is not added."""
    before = {"tokenizer.bos_token_id": "null", "generation_config.pad_token_id": "null", "config.eos_token_id": "null"}
    refuse_unlike("it", before, before | {"tokenizer.bos_token_id": "5", "generation_config.pad_token_id": "7"})
    with pytest.raises(ModelError, match=r"config\.eos_token_id is 7"):
        refuse_unlike("it", before, before | {"config.eos_token_id": "7"})
    with pytest.raises(ModelError, match=r"tokenizer\.bos_token_id is null"):
        refuse_unlike("it", before | {"tokenizer.bos_token_id": "5"}, before)


def test_long_values_are_shown_where_they_differ():
    """A list of the types of all layers, of which one was changed."""
    layers = ["full"] * 40
    before, after = str(layers), str([*layers[:30], "sliding", *layers[31:]])
    with pytest.raises(ModelError, match=r"config.layer_types is …\S+ .*'sliding'.*…, the reference's …[^s]*…\. "):
        refuse_unlike("it", {"config.layer_types": before}, {"config.layer_types": after})

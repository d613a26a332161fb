"""A candidate that computes or is served otherwise than its reference is refused before a weight is read."""

import json
import re
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.options.candidate import Released
from tests.file_changes import change, hide_a_word, stop_at, without
from tests.gates import CountingGate, settings
from tests.models.gguf_files import spell_builtin, write_gguf


def quantize(folder, place):
    """Release a model as LLM.int8(), with its tokenizer."""
    config = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def _releases(tmp_path_factory):
    """The built-in model and a Mistral whose window is shorter than its context, each released as LLM.int8()."""
    place = tmp_path_factory.mktemp("served")
    window = place / "mistral"
    shutil.copytree(builtin.DIRECTORY, window, ignore=shutil.ignore_patterns("*.py", "*.jsonl", "__pycache__"))
    change("config.json", model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=64)(window)
    quantize(builtin.DIRECTORY, place / "builtin-int8")
    quantize(window, place / "mistral-int8")
    return place


@pytest.fixture
def release(_releases, tmp_path):
    """Makes a gate of a changed release; the changes come one after another."""

    def make_gate(*changes, name="builtin", reference=None, **options):
        candidate = shutil.copytree(_releases / f"{name}-int8", tmp_path / "release")
        for one in changes:
            one(candidate)
        model = reference or ("builtin" if name == "builtin" else str(_releases / name))
        return CountingGate(settings(model=str(model), bits=(), candidate=(Released(str(candidate)),), **options))

    return make_gate


def test_untouched_releases_are_served_as_the_reference(release):
    """Whatever the library that saved them added."""
    gate = release()
    gate.compare("release")
    assert gate.loads == ["reference", "release"]


ROPE = {"rope_type": "default", "rope_theta": 1000.0}

COMPUTED = {
    "config.rope_parameters.rope_theta is 1000, the reference's 10000": change("config.json", rope_parameters=ROPE),
    "config.rms_norm_eps is 0.1, the reference's 1e-06": change("config.json", rms_norm_eps=0.1),
    "config.hidden_act is gelu, the reference's silu": change("config.json", hidden_act="gelu"),
    "config.attention_bias is true, the reference's false": change("config.json", attention_bias=True),
    "config.mlp_bias is true, the reference's false": change("config.json", mlp_bias=True),
    "config.rope_parameters.rope_type is linear, the reference's default": change(
        "config.json", rope_parameters=ROPE | {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}
    ),
}

SERVED = {
    "config.eos_token_id is 7, the reference's 1": stop_at(7),
    "generation_config.eos_token_id is [1, 7], the reference's 1": change(
        "generation_config.json", eos_token_id=[1, 7]
    ),
    "generation_config.temperature is 0.3, the reference's null": change("generation_config.json", temperature=0.3),
    "generation_config.json is missing, the reference's present": without("generation_config.json"),
    "config.max_position_embeddings is 64, the reference's 128": change("config.json", max_position_embeddings=64),
    'config.architectures is ["LlamaModel"], the reference\'s ["LlamaForCausalLM"]': change(
        "config.json", architectures=["LlamaModel"]
    ),
    "config.pad_token_id is null, the reference's 2": change("config.json", pad_token_id=None),
    "tokenizer.eos_token_id is 3, the reference's 1": change("tokenizer_config.json", eos_token="<unk>"),
    "tokenizer.added_tokens is ": hide_a_word,
}


@pytest.mark.parametrize("says", COMPUTED)
def test_release_that_computes_otherwise_is_refused(release, says):
    """Though its weights fit; short prompts may not show it."""
    gate = release(COMPUTED[says])
    with pytest.raises(ModelError, match="is not the reference quantized: .*" + re.escape(says)):
        gate.compare("release")
    assert gate.loads == []


@pytest.mark.parametrize("says", SERVED)
def test_release_that_is_served_otherwise_is_refused_unless_it_is_meant(release, says):
    """No prompt's first token shows it; the message has the option for each field."""
    gate = release(SERVED[says])
    with pytest.raises(ModelError, match="would not be served as the reference is: .*" + re.escape(says)) as refused:
        gate.compare("release")
    assert gate.loads == []
    named = re.findall(r"; (\S+) is |: (\S+) is ", str(refused.value))
    assert re.findall(r"--quantcheck-allow-difference=(\S+)", str(refused.value)) == ["".join(pair) for pair in named]


def test_what_is_meant_is_a_condition_of_the_verdict(release):
    """Each field that is served otherwise, with both values."""
    allowed = ("config.eos_token_id", "generation_config.json")
    gate = release(stop_at(7), without("generation_config.json"), allow_difference=allowed)
    assert gate.compare("release").conditions == (
        "config.eos_token_id 1 for the reference, 7 for the candidate",
        "generation_config.json present for the reference, missing for the candidate",
    )


def test_window_that_no_prompt_is_long_enough_to_see(release):
    """Shorter ones get the same answers with and without it."""
    gate = release(change("config.json", sliding_window=None), name="mistral")
    with pytest.raises(ModelError, match=r"config\.sliding_window is null, the reference's 64"):
        gate.compare("release")


def test_fields_of_training_and_of_other_programs_do_not_count(release):
    """Quantizers change them, and add their own."""
    noise = {"use_cache": False, "attention_dropout": 0.1, "unsloth_fixed": True, "dtype": "float16"}
    gate = release(change("config.json", **noise, transformers_version="4.40.0"))
    assert gate.compare("release").conditions == ()


def test_older_spelling_is_the_same(release):
    """The rotary base as releases before transformers 5 have it."""

    def older(folder):
        path = folder / "config.json"
        content = json.loads(path.read_text())
        del content["rope_parameters"]
        path.write_text(json.dumps(content | {"rope_theta": 10000, "rope_scaling": None}))

    gate = release(older)
    assert gate.compare("release").conditions == ()


def test_baseline_stands_for_the_reference(release, tmp_path):
    """Its provenance has what the reference's files say."""
    stored = str(tmp_path / "stored")
    CountingGate(settings(model="builtin", baseline=stored, update_baseline=True)).measure()
    gate = release(stop_at(7), baseline=stored)
    with pytest.raises(ModelError, match=r"config\.eos_token_id is 7, the reference's 1"):
        gate.compare("release")
    assert gate.loads == []


IN_METADATA = {
    "tokenizer.eos_token_id is 1, the reference's 3": change("tokenizer_config.json", eos_token="<unk>"),
    "config.max_position_embeddings is 128, the reference's 256": change("config.json", max_position_embeddings=256),
    "config.rms_norm_eps is 1e-06, the reference's 0.1": change("config.json", rms_norm_eps=0.1),
    "config.rope_parameters.rope_theta is 10000, the reference's 1000": change("config.json", rope_parameters=ROPE),
    "config.rope_parameters.rope_type is default, the reference's linear": change(
        "config.json", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "tokenizer.chat_template is ": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
}


@pytest.fixture(scope="session")
def spelled(tmp_path_factory):
    """The built-in model as a GGUF file can hold it, with such a file beside its folder."""
    folder = spell_builtin(tmp_path_factory.mktemp("gguf") / "spelled", chat=True)
    write_gguf(folder, folder.parent / "spelled.gguf", "Q8_0")
    return folder


@pytest.mark.parametrize("says", IN_METADATA)
def test_metadata_of_a_gguf_file_are_held_against_the_reference(spelled, tmp_path, says):
    """Before a weight is read."""
    folder = shutil.copytree(spelled, tmp_path / "reference")
    IN_METADATA[says](folder)
    candidate = (Released(str(spelled.parent / "spelled.gguf")),)
    gate = CountingGate(settings(model=str(folder), bits=(), candidate=candidate))
    with pytest.raises(ModelError, match=re.escape(says)):
        gate.compare("spelled.gguf")
    assert gate.loads == []


def test_what_a_gguf_file_cannot_say_is_no_difference(spelled, tmp_path):
    """It has the tokenizer's end of an answer alone, and nothing of biases and generation_config.json."""
    folder = shutil.copytree(spelled, tmp_path / "reference")
    stop_at(7)(folder)
    candidate = (Released(str(spelled.parent / "spelled.gguf")),)
    gate = CountingGate(settings(model=str(folder), bits=(), candidate=candidate))
    assert gate.compare("spelled.gguf").conditions == ()

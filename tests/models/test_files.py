"""What is checked, hashed and vouched for is what is read; a second set of weights is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.checksums import describe_files
from pytest_quantcheck.models.file_checks import CHECKS
from pytest_quantcheck.models.files import INDEX, WEIGHTS, resolve_files
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from tests.tiny_models import CONFIGS, TRACED


@pytest.fixture
def folder(tmp_path):
    """A copy of the built-in model."""
    copied = tmp_path / "model"
    copied.mkdir()
    for name in (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        if (builtin.DIRECTORY / name).exists():
            shutil.copy(builtin.DIRECTORY / name, copied)
    return copied


def check(folder, load_as="reference", **options):
    """Run every check, as a run does before it loads."""
    files = resolve_files(Source(str(folder), device="cpu", **options))
    for one in CHECKS:
        if one.applies(files, load_as):
            one.run(files, load_as)
    return files


def refusal(folder, load_as="reference", **options):
    """The sentence with which a model is refused."""
    with pytest.raises(ModelError) as caught:
        check(folder, load_as, **options)
    return str(caught.value)


def change(path, **changes):
    """Change a JSON file's object; None takes a key away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def shard(folder, second="model-2.safetensors"):
    """Write the weights as two files and an index; return which tensors each holds."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], second: names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in halves.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return halves


def test_whole_model_passes(folder):
    """Its files are those that make it, and nothing lies beside them unread."""
    files = check(folder)
    assert set(files.names) == {path.name for path in folder.iterdir()}
    assert (files.weights, files.unread) == ((WEIGHTS,), ())


def test_shards_pass(folder):
    """The index is among the files."""
    shard(folder)
    files = check(folder)
    assert set(files.names) == {path.name for path in folder.iterdir()}
    assert files.weights == ("model-1.safetensors", "model-2.safetensors")


@pytest.mark.ci
@pytest.mark.parametrize("name", [*CONFIGS, *TRACED])
@pytest.mark.parametrize("sharded", [True, False])
def test_every_architecture_passes(name, sharded, tiny, tokenizer, tmp_path):
    """As it is saved, with tensors that are tied, fused or renamed on loading."""
    tiny(name).save_pretrained(tmp_path, max_shard_size="50kB" if sharded else "5GB")
    tokenizer.save_pretrained(tmp_path)
    assert (len(check(tmp_path).weights) > 1) == sharded


@pytest.mark.parametrize("name", ["weights.pt", "weights.sft", "pytorch_model.bin", "model-2.SAFETENSORS"])
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_index_that_names_another_kind_of_file(folder, name, allow_pickle):
    """It would be unpickled, whatever is allowed, and would be in no hash."""
    shard(folder)
    (folder / "model-2.safetensors").rename(folder / name)
    index = (folder / INDEX).read_text()
    (folder / INDEX).write_text(index.replace("model-2.safetensors", name))
    said = refusal(folder, allow_pickle=allow_pickle)
    assert f"expected files that end in .safetensors, got {name!r}" in said


@pytest.mark.parametrize("named", ["model.bin", "adapter_model.bin", "../other.safetensors", 5, ["model.safetensors"]])
def test_configuration_that_names_other_weights(folder, named):
    """Transformers would read them."""
    change(folder / "config.json", transformers_weights=named)
    said = refusal(folder)
    assert "transformers_weights" in said or "expected the name of a file beside it" in said


def test_weights_that_the_configuration_names(folder):
    """They are the model's."""
    (folder / WEIGHTS).rename(folder / "mine.safetensors")
    change(folder / "config.json", transformers_weights="mine.safetensors")
    assert check(folder).weights == ("mine.safetensors",)


@pytest.mark.parametrize("name", ["consolidated.safetensors", "model.fp16.safetensors", "model-3.safetensors"])
@pytest.mark.parametrize("sharded", [True, False])
def test_second_set_of_weights(folder, name, sharded):
    """Another program may read it; that shards are newer than a single file, or older, nobody can tell."""
    if sharded:
        shard(folder)
    save_file({"a": torch.zeros(2)}, folder / name)
    said = refusal(folder)
    assert said.startswith(f"{folder}: expected one set of weights, found {INDEX if sharded else WEIGHTS}")
    assert f"beside it {name}" in said


def test_single_file_beside_shards(folder):
    """We would read the file, and servers go by the index."""
    shutil.copy(folder / WEIGHTS, folder / "kept")
    shard(folder)
    (folder / "kept").rename(folder / WEIGHTS)
    assert f"found {WEIGHTS} and beside it model-1.safetensors" in refusal(folder)


def test_index_that_leads_to_the_single_file(folder):
    """It is the same set."""
    names = dict.fromkeys(load_file(folder / WEIGHTS), WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert check(folder).weights == (WEIGHTS,)


@pytest.mark.parametrize("beside", ["consolidated.safetensors", "pytorch_model.bin"])
def test_other_files_of_a_hub_id(folder, beside, tmp_path, monkeypatch):
    """What another program fetched into the hub's cache is not read, and that is said."""
    before = resolve_files(Source(str(folder))).content_hash
    repository = tmp_path / "hub" / "models--example--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    snapshot = shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
    (snapshot / beside).write_text("other weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files = check("example/small")
    assert files.content_hash == before
    assert files.unread == (beside,)
    with load(Source("example/small", device="cpu")) as loaded:
        assert loaded.content_hash == before


def test_adapter(folder):
    """Whether it is applied depends on what is installed."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    said = refusal(folder)
    assert "found an adapter (adapter_config.json)" in said
    assert "Merge it into the weights" in said


def test_pickled_weights_beside_safetensors_are_not_read(folder):
    """They are named as such, and have no part in the hash."""
    before = resolve_files(Source(str(folder))).content_hash
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "notes.txt").write_text("x")
    files = check(folder, allow_pickle=True)
    assert files.content_hash == before
    assert describe_files(files).endswith("; not read: notes.txt and pytorch_model.bin")


def test_tensor_in_two_files(folder):
    """The last one would be taken by some, the one that the index names by others."""
    first, _ = shard(folder).values()
    tensors = load_file(folder / "model-2.safetensors")
    tensors[first[0]] = load_file(folder / "model-1.safetensors")[first[0]] / 2
    save_file(tensors, folder / "model-2.safetensors", metadata={"format": "pt"})
    said = refusal(folder)
    assert f"model-1.safetensors and model-2.safetensors beside it both hold {first[0]}" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": -1}, "expected a whole number above 0 as num_hidden_layers, got '-1'"),
        ({"num_hidden_layers": 1_000_000}, "says num_hidden_layers 1,000,000, and the weights have 6 blocks"),
        ({"num_hidden_layers": 7}, "says num_hidden_layers 7, and the weights have 6 blocks"),
        ({"num_hidden_layers": 5}, "the files hold model.layers.5."),
        ({"num_hidden_layers": "6"}, "expected a whole number above 0 as num_hidden_layers, got '6'"),
        ({"vocab_size": 10**12}, "says vocab_size 1,000,000,000,000, and no tensor has more than"),
        ({"num_attention_heads": 0}, "expected a whole number above 0 as num_attention_heads, got '0'"),
        ({"num_attention_heads": True}, "expected a whole number above 0 as num_attention_heads, got 'True'"),
        ({"vocab_size": [5]}, "expected a whole number above 0 as vocab_size, got '[5]'"),
        ({"intermediate_size": [344, -1]}, "expected a whole number above 0 as intermediate_size, got '[344, -1]'"),
        ({"model_type": "bert"}, "the files lack bert"),
        ({"model_type": "no-such-type"}, "no-such-type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": 64}, "is of shape"),
    ],
)
@pytest.mark.parametrize("load_as", ["reference", "released"])
def test_configuration_that_does_not_belong_to_the_weights(folder, released, load_as, changes, says):
    """Found from the headers, before anything is built of it."""
    place = released if load_as == "released" else folder
    change(place / "config.json", **changes)
    if load_as == "released" and changes in ({"num_hidden_layers": 5}, {"hidden_size": 64}):
        with pytest.raises(ModelError):  # how the format stores its weights is known when they are loaded
            load(Source(str(place), device="cpu"), "released")
    else:
        assert says in refusal(place, load_as)


@pytest.fixture(scope="module")
def _released(tmp_path_factory):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    place = tmp_path_factory.mktemp("made") / "int8"
    config = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, quantization_config=config).save_pretrained(place)
    for path in builtin.DIRECTORY.glob("tokenizer*.json"):
        shutil.copy(path, place)
    return place


@pytest.fixture
def released(_released, tmp_path):
    """A copy of the built-in model in int8."""
    return shutil.copytree(_released, tmp_path / "int8")


def test_released_model_passes(released):
    """As its maker wrote it."""
    assert check(released, "released").unread == ()


def test_both_kinds_of_bitsandbytes(released):
    """Which one counts is for nobody to guess."""
    config = json.loads((released / "config.json").read_text())["quantization_config"]
    change(released / "config.json", quantization_config=config | {"load_in_4bit": True})
    assert "both load_in_4bit and load_in_8bit" in refusal(released, "released")


def test_quantized_model_without_its_configuration(released):
    """Its codes would be taken for weights."""
    change(released / "config.json", quantization_config=None)
    said = refusal(released)
    assert "found I8 in " in said
    assert "a quantized model whose config.json lacks its quantization_config" in said


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.SCB", "model.layers.0.mlp.up_proj.weight_zero_point"])
def test_tensor_that_a_reference_does_not_take(folder, name):
    """It is named, from the headers alone."""
    tensors = load_file(folder / WEIGHTS) | {name: torch.zeros(2)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert f"the files hold {name}, which a model of this config.json does not take" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("null", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("{", "expected a JSON object"),
        ("", "expected a JSON object"),
        ("{}", "expected"),
        ("\xff", "expected a JSON object"),
        ("[" * 900 + "]" * 900, "JSON object"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
        ('{"vocab_size": 5, "vocab_size": 6}', "found the key 'vocab_size' twice"),
        ('{"text_config": {"a": 5, "a": 6}}', "found the key 'a' twice"),
    ],
)
def test_configuration_that_is_no_object(folder, content, says):
    """One sentence that names the file; Python's own errors are not quoted."""
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    said = refusal(folder)
    assert said.startswith(f"{folder / 'config.json'} is ")
    assert says in said
    assert "Error" not in said


@pytest.mark.parametrize("content", ["null", "[]", "[" * 900 + "]" * 900, '{"a": ', "5"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_other_files_that_are_no_objects(folder, name, content):
    """Transformers ignores some of them without a word, and quotes Python's errors for others."""
    (folder / name).write_text(content)
    said = refusal(folder)
    assert said.startswith(f"{folder / name} is damaged: expected a JSON object")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 5}}', '{"weight_map": []}'])
def test_index_without_a_map(folder, content):
    """What it lacks is said."""
    shard(folder)
    (folder / INDEX).write_text(content)
    assert f"{folder / INDEX}: expected a weight_map with the file of each tensor, found none" in refusal(folder)


def test_index_without_metadata(folder):
    """Transformers ends in a KeyError."""
    shard(folder)
    change(folder / INDEX, metadata=None)
    assert 'add "metadata": {}' in refusal(folder)


@pytest.mark.parametrize("excepted", [["model"], ["up_proj", "lm_head"]])
def test_quantized_layer_that_the_configuration_excepts(released, excepted):
    """Its codes would be taken for weights."""
    config = json.loads((released / "config.json").read_text())["quantization_config"]
    change(released / "config.json", quantization_config=config | {"llm_int8_skip_modules": excepted})
    with pytest.raises(ModelError, match=r"the files hold codes of a quantized weight for model\.layers\.0\."):
        load(Source(str(released), device="cpu"), "released")


def test_flags_of_another_kind(released):
    """Weights in 8 bits that are said to be in 4: the tensors that would be left out are named."""
    config = json.loads((released / "config.json").read_text())["quantization_config"]
    four = {"load_in_8bit": False, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    change(released / "config.json", quantization_config=config | four)
    with pytest.raises(ModelError, match=r"the files hold .*down_proj\.SCB.*does not take"):
        load(Source(str(released), device="cpu"), "released")

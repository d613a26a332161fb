"""A model is loaded whole at any bit-width, or not at all with a sentence that says why."""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.pretrained import choose_device
from pytest_quantcheck.models.source import Source
from tests.tiny_models import differences

BITS = ["fp32", "bf16", "fp16", "int8", "nf4", "fp4"]
LAYERS = {"int8": "Linear8bitLt", "nf4": "Linear4bit", "fp4": "Linear4bit"}


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.mark.parametrize("bits", BITS)
def test_model_loads_at_every_bit_width(answer, checkpoint, batch_of, bits):
    """It answers, and its layers are of the kind that the bit-width means."""
    with load(Source(str(checkpoint), device="cpu"), bits) as loaded:
        assert loaded.module_types[LAYERS.get(bits, "Linear")] == (21 if bits in LAYERS else 22)
        assert loaded.dtype == (bits if bits not in LAYERS else "fp32")
        assert torch.isfinite(answer(loaded, batch_of(6, 4))).all()
        assert (loaded.n_layers, loaded.chat, loaded.bits) == (3, False, bits)


@pytest.mark.parametrize("bits", BITS)
def test_quantization_is_described_in_plain_words(checkpoint, bits):
    """What goes into the measurement is JSON, and says what the paper's bit-widths are."""
    with load(Source(str(checkpoint), device="cpu"), bits) as loaded:
        described = loaded.quantization
    assert json.loads(json.dumps(described)) == described
    if bits not in LAYERS:
        assert described is None
    elif bits == "int8":
        assert (described["quant_method"], described["load_in_8bit"]) == ("bitsandbytes", True)
    else:
        assert (described["bnb_4bit_quant_type"], described["bnb_4bit_use_double_quant"]) == (bits, True)


@pytest.mark.parametrize(("bits", "between"), [("bf16", (0, 0.3)), ("int8", (1e-3, 0.3)), ("nf4", (0.1, 10))])
def test_fewer_bits_move_the_answer_further(answer, checkpoint, batch_of, bits, between):
    """Largest change of a log-probability, in nats, on random weights: 8 bits a little, 4 bits more."""
    answers = []
    for each in ("fp32", bits):
        with load(Source(str(checkpoint), device="cpu"), each) as loaded:
            answers.append(answer(loaded, batch_of(6, 4)))
    assert between[0] < (answers[0] - answers[1]).abs().max() < between[1]


def test_reference_has_the_checkpoints_dtype(bf16_checkpoint, checkpoint):
    """Unless another is asked for."""
    sources = [Source(str(bf16_checkpoint)), Source(str(checkpoint)), Source(str(bf16_checkpoint), dtype="fp32")]
    assert [load(source).dtype for source in sources] == ["bf16", "fp32", "fp32"]


@pytest.mark.parametrize("bits", ["reference", *BITS])
@pytest.mark.skipif(not (builtin.DIRECTORY / "model.safetensors").exists(), reason="the built-in model is not made yet")
def test_builtin_model_loads_at_every_bit_width(bits):
    """The name `builtin` is enough."""
    with load(Source("builtin", device="cpu"), bits) as loaded:
        ids = torch.tensor(loaded.tokenizer(["True or False"])["input_ids"])
        assert torch.isfinite(loaded.model(ids).logits).all()
        assert loaded.content_hash


def test_bf16_without_kernels_is_a_rounded_float32_product(bf16_checkpoint):
    """On every CPU a bf16 layer gives the float32 product rounded to bf16, or its next neighbour."""
    with load(Source(str(bf16_checkpoint), device="cpu")) as loaded:
        layer = loaded.model.model.layers[0].mlp.up_proj
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
        expected = (x.float() @ layer.weight.float().T).bfloat16()
        torch.testing.assert_close(layer(x), expected, rtol=2**-7, atol=1e-3)


def test_close_frees_the_model(checkpoint):
    """After the block nothing holds the model, and closing again does no harm."""
    with load(Source(str(checkpoint), device="cpu"), "nf4") as loaded:
        alive = weakref.ref(loaded.model)
        parameter = weakref.ref(loaded.model.model.layers[0].mlp.up_proj.weight)
    gc.collect()
    assert alive() is None
    assert parameter() is None
    loaded.close()


def test_close_frees_a_model_with_forwards_of_its_own(bf16_checkpoint):
    """The layers that multiply in float32 do not keep themselves alive."""
    with load(Source(str(bf16_checkpoint), device="cpu")) as loaded:
        alive = weakref.ref(loaded.model)
    gc.collect()
    assert alive() is None


def test_tokenizer_without_padding_gets_one(folder, batch_of):
    """It pads with its end token; with none, with the unknown token or the first of the vocabulary."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for absent, expected in [(["pad_token"], "</s>"), (["pad_token", "eos_token"], "<pad>")]:
        kept = {key: value for key, value in settings.items() if key not in absent}
        (folder / "tokenizer_config.json").write_text(json.dumps(kept))
        with load(Source(str(folder), device="cpu")) as loaded:
            assert loaded.tokenizer.pad_token == expected
            assert loaded.tokenizer.padding_side == "left"


def truncate(folder):
    """The download was cut off."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def remove_weights(folder):
    """A configuration and a tokenizer only."""
    (folder / "model.safetensors").unlink()


def pickle_weights(folder):
    """The old format, which runs code when read."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    remove_weights(folder)


def remove_one_tensor(folder):
    """All is there but one matrix."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_shape(folder):
    """The configuration is that of a wider model."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))


def break_config(folder):
    """No JSON."""
    (folder / "config.json").write_text("{")


def remove_config(folder):
    """A folder beside the model's own, perhaps."""
    (folder / "config.json").unlink()


def remove_tokenizer(folder):
    """Weights only."""
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.filterwarnings("ignore")  # transformers may warn before it fails
@pytest.mark.parametrize("bits", ["reference", "int8", "nf4"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "model.safetensors is damaged: .*Check that the files are complete"),
        (remove_weights, "expected weights in model.safetensors or model.safetensors.index.json, found neither"),
        (pickle_weights, "--quantcheck-allow-pickle"),
        (remove_one_tensor, r"the files lack model\.layers\.1\.mlp\.up_proj\.weight, which config.json expects"),
        (break_config, "config.json is damaged: expected a JSON object"),
        (remove_config, "expected a checkpoint, found no config.json; check the path"),
        (remove_tokenizer, "tokenizer"),
    ],
)
def test_damaged_model_is_one_readable_sentence(folder, damage, says, bits):
    """Nothing that is missing is made up; the error names the model and what to do, on one line."""
    damage(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load(Source(str(folder), device="cpu"), bits)
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert len(text) < 800


@pytest.mark.filterwarnings("ignore")
def test_weights_of_another_shape_are_an_error(folder):
    """A config.json of another model does not get random weights."""
    change_shape(folder)
    with pytest.raises(ModelError, match=r"mlp.down_proj.weight is of shape \(64, 128\), and .* expects \(64, 256\)"):
        load(Source(str(folder), device="cpu"))


def test_pickled_weights_are_read_when_allowed(answer, folder, checkpoint, batch_of):
    """With the option the same weights give the same answer."""
    pickle_weights(folder)
    allowed = load(Source(str(folder), allow_pickle=True, device="cpu"))
    assert torch.equal(
        answer(allowed, batch_of(5, 3)), answer(load(Source(str(checkpoint), device="cpu")), batch_of(5, 3))
    )


@pytest.mark.parametrize("name", ["./nothing", "/nothing", "../some/where", "model.gguf"])
def test_path_that_does_not_exist_is_an_error(name):
    """What looks like a path is never looked up on a hub."""
    with pytest.raises(ModelError, match=f"{name}: no such file or directory"):
        load(Source(name))


def test_unknown_hub_id_offline_is_an_error(monkeypatch):
    """The error names the id, and what to check."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/nothing cannot be fetched.*hub id.*HF_HUB_OFFLINE"):
        load(Source("nobody/nothing"))


def test_model_without_known_neurons_is_an_error(tiny, save, tmp_path):
    """Loading is where an unknown architecture is noticed."""
    with pytest.raises(ModelError, match="no FFN was found"):
        load(Source(str(save(tiny("mamba"), tmp_path)), device="cpu"))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_unknown_device_is_an_error(device):
    """The error says what is expected."""
    with pytest.raises(ModelError, match="expected auto, cpu or cuda"):
        choose_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_cuda_is_an_error():
    """Asking for a device that is not there does not fall back; `auto` does."""
    with pytest.raises(ModelError, match="sees no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_content_hash_is_of_the_files_alone(folder, tmp_path):
    """A copy under another name has the same hash; a changed byte of the weights or a renamed file another."""
    before = resolve_files(Source(str(folder))).content_hash
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("nothing of the model")
    assert resolve_files(Source(str(moved))).content_hash == before
    weights = moved / "model.safetensors"
    last = weights.read_bytes()[-1:]
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([last[0] ^ 1]))
    assert resolve_files(Source(str(moved))).content_hash != before
    weights.write_bytes(weights.read_bytes()[:-1] + last)
    assert resolve_files(Source(str(moved))).content_hash == before
    (moved / "tokenizer_config.json").rename(moved / "vocab.txt")  # the last in order, as before: only the name differs
    assert resolve_files(Source(str(moved))).content_hash != before


def test_hashes_follow_the_tokenizer(checkpoint, folder):
    """Two tokenizers that give words other numbers, or have another chat template, are not the same."""
    with load(Source(str(checkpoint), device="cpu"), "nf4") as plain:
        assert not plain.chat
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with load(Source(str(folder), device="cpu")) as chatting:
        assert chatting.chat
        assert differences(plain, chatting) == ["tokenizer.chat_template"]
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"w5"', '"w"'))
    with load(Source(str(folder), device="cpu")) as renamed:
        assert differences(chatting, renamed) == ["tokenizer.vocabulary"]


@pytest.mark.ci
def test_libraries_that_were_never_compiled_load_under_warnings_as_errors(tmp_path):
    """Some installers compile nothing, and Python warns of torchao's escapes when it does: no error of the model's."""
    code = "from pytest_quantcheck import Source, load; load(Source('builtin'), 'int8').close()"
    command, never = [sys.executable, "-W", "error", "-c", code], os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    done = subprocess.run(command, env=never, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")

"""`python -m pytest_quantcheck dequantize …`: a directory that is the same model as the GGUF file, or nothing."""

import json
import re
import shlex
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pytest_quantcheck.commands import main
from pytest_quantcheck.models.encoding import collate, encode
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.storage import load_measurement
from tests.models.gguf_files import spell_builtin, write_gguf
from tests.storage.disks import files_of_at_most
from tests.tiny_models import differences

from .conftest import QUICK

TEXTS = ["Is the lamp on? Answer:", "What is 3 + 4?", "a  b\n\tc", "<bos> ünknown 你好 <|endoftext|>"]
TURNS = [{"role": "user", "content": "What is 3 + 4?"}]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The built-in model with a chat template, as a directory `spelled` and as `small.gguf`; not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    spell_builtin(folder / "spelled", chat=True)
    write_gguf(folder / "spelled", folder / "small.gguf", "Q4_1", embedding="Q8_0")
    return folder


@pytest.fixture(scope="module", params=[None, "bf16", "fp16"])
def written(request, small, tmp_path_factory):
    """What the command wrote, and the float format that it was asked for, if any."""
    out = tmp_path_factory.mktemp("written") / "plain"
    asked = ("--dtype", request.param) if request.param else ()
    assert main(["dequantize", str(small / "small.gguf"), "--out", str(out), *asked]) == 0
    return SimpleNamespace(folder=out, dtype=request.param or "fp32")


def logits_of(model, tokenizer):
    """Logits of a batch of two lengths, in the model's float format."""
    encoded = encode(tokenizer, TEXTS[:2], chat=False)
    batch = collate(encoded, range(2), pad=tokenizer.pad_token_id, device=torch.device("cpu"))
    with torch.no_grad():
        return model(**batch.inputs()).logits


@pytest.mark.ci
def test_logits_are_those_of_the_file(small, written):
    """To the last bit, with the gate's reader and with transformers' own; not marked as quantized."""
    source = Source(str(small / "small.gguf"), dtype=written.dtype, device="cpu")
    with load(source) as expected, load(Source(str(written.folder), device="cpu")) as found:
        assert (found.dtype, found.quantization) == (written.dtype, None)
        assert found.module_types == expected.module_types
        assert differences(expected, found) == []
        logits = logits_of(expected.model, expected.tokenizer)
        assert torch.equal(logits_of(found.model, found.tokenizer), logits)
        weights = expected.model.state_dict()
    plain = AutoModelForCausalLM.from_pretrained(written.folder)
    assert plain.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())
    if written.dtype == "fp32":  # the gate has kernels of its own for half precision, where a CPU has none
        assert torch.equal(logits_of(plain.eval(), AutoTokenizer.from_pretrained(written.folder)), logits)


def test_tokenizer_is_the_models_own(small, written):
    """The same tokens for the same text, and the same prompt for the same turn, as before the GGUF file was made."""
    expected, found = map(AutoTokenizer.from_pretrained, (small / "spelled", written.folder))
    assert [found(text).input_ids for text in TEXTS] == [expected(text).input_ids for text in TEXTS]
    for more in ({}, {"tokenize": False}):
        assert found.apply_chat_template(TURNS, **more) == expected.apply_chat_template(TURNS, **more)
    assert found.special_tokens_map == expected.special_tokens_map


def test_directory_is_a_plain_checkpoint(written):
    """Its files, and what generation needs to end; no trace of the quantization or of a temporary folder."""
    names = {path.name for path in written.folder.iterdir()}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert names == {"config.json", "generation_config.json", "model.safetensors", *tokenizer}
    assert len({path.stat().st_mode for path in written.folder.iterdir()}) == 1
    assert json.loads((written.folder / "generation_config.json").read_text())["eos_token_id"] == 1
    for name in names - {"model.safetensors"}:
        assert not re.search("quantiz|gguf|tmp", (written.folder / name).read_text(), re.IGNORECASE)


def test_measurement_is_that_of_the_file(small, tmp_path, capsys):
    """A gate reads the same from both; the printed line has the name to go on with."""
    plain = tmp_path / "a plain one"
    assert main(["dequantize", str(small / "small.gguf"), "--out", str(plain)]) == 0
    out, err = capsys.readouterr()
    said = rf"{plain}: {small}/small.gguf in fp32, \d\.\d MB, written in .* s; next: pytest --quantcheck-only (.*)\n"
    assert shlex.split(re.fullmatch(said, out)[1]) == [f"--quantcheck-model={plain}"]
    assert err == ""
    for model, name in ((small / "small.gguf", "file"), (plain, "plain")):
        assert main(["measure", "--model", str(model), "--out", str(tmp_path / name), *QUICK]) == 0
    file, found = (load_measurement(tmp_path / name / "builtin") for name in ("file", "plain"))
    assert found.provenance.encoding_hash == file.provenance.encoding_hash
    assert np.array_equal(found.answers.log_probs, file.answers.log_probs)
    assert np.array_equal(found.activations[2].maximum, file.activations[2].maximum)


@pytest.fixture
def place(small, tmp_path):
    """What can be named wrongly, by the words in capitals below; nothing may be added to it."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    data = (small / "small.gguf").read_bytes()
    (tmp_path / "short.gguf").write_bytes(data[:-5000])
    (tmp_path / "other.gguf").write_bytes(b"GGUX" + bytes(100))
    (tmp_path / "model.safetensors").write_bytes(data)
    shutil.copytree(small / "spelled", tmp_path / "directory.gguf")
    (tmp_path / "summed").mkdir()
    shutil.copy(small / "small.gguf", tmp_path / "summed")
    (tmp_path / "summed" / "SHA256SUMS").write_text(f"{'0' * 64}  small.gguf\n")
    return tmp_path


def everything(directory):
    """Every path below a directory."""
    return sorted(directory.rglob("*"))


NO_GGUF = r"expected the path of a GGUF file \(\.gguf\), found "
REFUSED = {
    "no directory": (["GOOD"], "--out is missing: add --out=DIR"),
    "full directory": (
        ["GOOD", "--out", "PLACE/full"],
        ".*full: expected a new or an empty directory, found mine in it",
    ),
    "file in its place": (["GOOD", "--out", "GOOD"], "--out: expected a directory, got the file"),
    "integers": (["GOOD", "--out", "PLACE/new", "--dtype", "int8"], "--dtype: expected one of .*, got 'int8'"),
    "no name": (["", "--out", "PLACE/new"], "FILE: expected a value, got nothing"),
    "absent": (["PLACE/no.gguf", "--out", "PLACE/new"], r".*no\.gguf: no such file or directory"),
    "hub id": (["organisation/name", "--out", "PLACE/new"], f"organisation/name: {NO_GGUF}none; fetch"),
    "built in": (["builtin", "--out", "PLACE/new"], f"builtin: {NO_GGUF}something else"),
    "directory": (["PLACE/directory.gguf", "--out", "PLACE/new"], rf".*directory\.gguf: {NO_GGUF}something else"),
    "other file": (
        ["PLACE/model.safetensors", "--out", "PLACE/new"],
        rf".*model\.safetensors: {NO_GGUF}something else",
    ),
    "other content": (["PLACE/other.gguf", "--out", "PLACE/new"], r".*other\.gguf"),
    "cut short": (["PLACE/short.gguf", "--out", "PLACE/new"], r".*short\.gguf has [\d,]+ bytes, and its header says"),
    "other sums": (["PLACE/summed/small.gguf", "--out", "PLACE/new"], r".*small\.gguf is not the file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_file_or_place_is_refused(refused, small, place, monkeypatch, name):
    """Before a weight is read, in one sentence, and nothing is made."""
    monkeypatch.setattr("pytest_quantcheck.models.released.unpacked", None)
    arguments, sentence = REFUSED[name]
    words = {"GOOD": str(small / "small.gguf"), "PLACE": str(place)}
    before = everything(place)
    said = refused("dequantize", *(re.sub("GOOD|PLACE", lambda found: words[found[0]], one) for one in arguments))
    assert re.match(sentence, said)
    assert everything(place) == before


def test_full_disk_leaves_nothing(refused, small, tmp_path):
    """The sentence names the file, the place and the reason."""
    with files_of_at_most(100_000):
        said = refused("dequantize", small / "small.gguf", "--out", tmp_path / "plain")
    assert re.match(rf".*small\.gguf: what it is dequantized into cannot be written in {tmp_path}: .*too large", said)
    assert everything(tmp_path) == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(stop, small, tmp_path, monkeypatch, capsys):
    """Once the weights are written, and the tokenizer is not."""
    save = LlamaForCausalLM.save_pretrained

    def stopped(model, folder):
        save(model, folder)
        assert len(everything(tmp_path)) > 2
        signal.raise_signal(stop)

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", stopped)
    assert main(["dequantize", str(small / "small.gguf"), "--out", str(tmp_path / "plain")]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert everything(tmp_path) == []

"""`python -m pytest_quantcheck measure …`: what it writes, what it says, what it refuses before a model is loaded."""

import io
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_quantcheck.commands import main
from pytest_quantcheck.commands.options import MEASURE, read, to_settings
from pytest_quantcheck.commands.parser import parser
from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.formats.bitsandbytes import quantization_config
from pytest_quantcheck.options import OPTIONS
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.storage import load_measurement, load_provenance

from .conftest import QUICK


@pytest.fixture
def empty(tmp_path):
    """A directory without a model in it: as a path it is fine, and whoever loads it fails."""
    (tmp_path / "empty").mkdir()
    return str(tmp_path / "empty")


@pytest.fixture
def places(stored, empty, tmp_path):
    """What the words in capitals stand for below."""
    return {"OUT": str(tmp_path / "out"), "EMPTY": empty, "REF": str(stored / "reference")}


def settings(*arguments):
    """The settings that `measure` makes of its arguments."""
    return to_settings(read(parser().parse_args(["measure", *arguments]), MEASURE) | {"bits": (), "candidate": ()})


def files(directory):
    """The content of every file below a directory, by its path."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_reference_is_what_the_gate_measures(stored):
    """One directory for each prompt set, with the answers that a gate finds, bit for bit."""
    found = load_measurement(stored / "reference" / "builtin")
    expected = Gate(settings("--model", "builtin", *QUICK)).measure()
    assert found.provenance == expected.provenance
    assert np.array_equal(found.answers.log_probs, expected.answers.log_probs)
    assert np.array_equal(found.activations[2].maximum, expected.activations[2].maximum)


def test_candidate_is_measured_against_the_stored_reference(stored):
    """On the same prompts, with the tokens that the reference thinks probable."""
    reference, candidate = (load_measurement(stored / name / "builtin") for name in ("reference", "int8"))
    assert (candidate.provenance.bits, candidate.provenance.format) == ("int8", "int8")
    assert candidate.provenance.encoding_hash == reference.provenance.encoding_hash
    assert np.array_equal(candidate.answers.support, reference.answers.support)
    assert not np.array_equal(candidate.answers.log_probs, reference.answers.log_probs)


def test_columns_may_have_other_names(tmp_path, capsys):
    """`measure` takes the option as pytest does, spells it as its own, and stores what the plain file gives."""
    rows = "".join(f"What is {n} + {n}?,{n + n}\n" for n in range(16))
    for folder, header in (("plain", "prompt,gold"), ("named", "question,answer")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sums.csv").write_text(f"{header}\n{rows}")
    less = ("--attribution", "off", *QUICK)
    for folder, columns in (("plain", ()), ("named", ("--columns=prompt=question,gold=answer",))):
        prompts, out = str(tmp_path / folder / "sums.csv"), str(tmp_path / folder / "out")
        assert main(["measure", "--model", "builtin", "--out", out, "--prompts", prompts, *columns, *less]) == 0
    plain, named = (load_measurement(tmp_path / folder / "out" / "sums") for folder in ("plain", "named"))
    assert plain.provenance == named.provenance
    assert np.array_equal(plain.answers.log_probs, named.answers.log_probs)
    capsys.readouterr()
    prompts = str(tmp_path / "named" / "sums.csv")
    assert main(["measure", "--model", "builtin", "--out", str(tmp_path / "new"), "--prompts", prompts]) != 0
    assert capsys.readouterr().err.endswith("have prompt and gold: --columns=prompt=question,gold=answer\n")


def test_each_prompt_set_is_said_with_its_place_and_size(tmp_path, capsys):
    """Two prompt sets, two directories, a line for each, and how long it took; nothing on a stderr nobody watches."""
    rows = "".join(f"What is {n} + {n}?,{n + n}\n" for n in range(16))
    (tmp_path / "sums.csv").write_text(f"prompt,gold\n{rows}")
    prompts = ("--prompts", "builtin", "--prompts", str(tmp_path / "sums.csv"))
    assert main(["measure", "--model", "builtin", "--out", str(tmp_path / "out"), *prompts, *QUICK]) == 0
    out, err = capsys.readouterr()
    first, second, last = out.splitlines()
    assert re.fullmatch(r".*out/builtin: builtin as reference on builtin, 16 prompts, \d+\.\d MB", first)
    assert re.fullmatch(r".*out/sums: builtin as reference on sums, 16 prompts, \d+\.\d MB", second)
    assert re.fullmatch(r"measured and written in (\d+|less than 1) s", last)
    assert err == ""
    assert [load_provenance(tmp_path / "out" / name).prompt_set for name in ("builtin", "sums")] == ["builtin", "sums"]


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self):
        return True


def test_terminal_is_told_how_far_it_is(tmp_path, monkeypatch, capsys):
    """One line on stderr that is taken away in the end."""
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert main(["measure", "--model", "builtin", "--out", str(tmp_path / "out"), *QUICK]) == 0
    told = terminal.getvalue()
    assert told.startswith("\rreference: loading\r")
    assert "\rreference on builtin, measuring: 0/16 prompts" in told
    assert told.endswith(" \r")
    assert "\n" not in told


def test_what_is_there_is_replaced_when_asked(copied, capsys):
    """`--force`, and only that, writes over a measurement."""
    out = copied / "reference"
    assert main(["measure", "--model", "builtin", "--out", str(out), "--force", *QUICK, "--seed", "1"]) == 0
    assert load_provenance(out / "builtin").seed == 1


def test_what_is_there_outlives_a_failure(copied, empty, refused):
    """A model that is not there replaces nothing, `--force` or not."""
    before = files(copied)
    assert "found no config.json" in refused(
        "measure", "--model", empty, "--out", copied / "reference", "--force", *QUICK
    )
    assert files(copied) == before


def test_prompt_longer_than_the_context_is_refused_before_weights(tmp_path, refused):
    """Its row is named, and nothing is written."""
    rows = [json.dumps({"prompt": f"is {n} even" + " dog" * (150 if n == 9 else 1), "gold": "True"}) for n in range(12)]
    (tmp_path / "long.jsonl").write_text("\n".join(rows))
    asked = ("--model", "builtin", "--prompts", tmp_path / "long.jsonl", "--out", tmp_path / "out")
    assert "long.jsonl, row 10 has 154 tokens, and the model's context holds 128" in refused("measure", *asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_so_and_leaves_nothing(stop, tmp_path, monkeypatch, capsys):
    """Ctrl-C in the middle, or a job that is stopped: one word, the status that shells expect, nothing half written."""
    monkeypatch.setattr("pytest_quantcheck.measuring.measure", lambda *_, **__: signal.raise_signal(stop))
    assert main(["measure", "--model", "builtin", "--out", str(tmp_path / "out"), *QUICK]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert files(tmp_path) == {}


def test_candidate_that_is_served_otherwise_is_refused_unless_it_is_meant(stored, tmp_path, refused):
    """The stored reference says how it is served."""
    name, out = tmp_path / "small", tmp_path / "out"
    quantization = quantization_config("int8", torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, quantization_config=quantization, device_map="cpu")
    model.generation_config.eos_token_id = 7
    model.save_pretrained(name)
    AutoTokenizer.from_pretrained(builtin.DIRECTORY).save_pretrained(name)
    asked = ["measure", "--candidate", str(name), "--reference", str(stored / "reference"), "--out", str(out), *QUICK]
    option = "--allow-difference=generation_config.eos_token_id"
    assert refused(*asked).endswith(f"or say that it is meant: {option}")
    assert main([*asked, option]) == 0


def test_released_candidate_is_measured_as_it_is(stored, tmp_path, capsys):
    """No model is needed beside the stored reference; compared, it is called by its directory."""
    name, out = str(tmp_path / "small"), str(tmp_path / "out")
    quantization = quantization_config("int8", torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, quantization_config=quantization, device_map="cpu")
    model.save_pretrained(name)
    AutoTokenizer.from_pretrained(builtin.DIRECTORY).save_pretrained(name)
    reference = str(stored / "reference")
    assert main(["measure", "--reference", reference, "--candidate", name, "--out", out, *QUICK]) == 0
    provenance = load_provenance(tmp_path / "out" / "builtin")
    assert (provenance.bits, provenance.model) == ("released", name)
    capsys.readouterr()
    assert main(["compare", reference, out]) == 0
    assert capsys.readouterr().out.startswith("small: may be released")


# Every other refusal comes before anything is loaded: the model is a directory without a model in it.
TOO_LITTLE_OR_TOO_MUCH = [
    (["--out", "OUT"], "--model is missing: add --model=MODEL"),
    (["--model", "EMPTY"], "--out is missing: add --out=DIR"),
    (["--out", "OUT", "--reference", "REF", "--bits", "8"], "--model is missing"),
    (["--model", "EMPTY", "--out", "OUT", "--bits", "int8"], "--bits needs a reference to measure against"),
    (["--model", "EMPTY", "--out", "OUT", "--candidate", "EMPTY"], "--candidate needs a reference to measure against"),
    (["--model", "EMPTY", "--out", "OUT", "--reference", "REF"], "--reference: expected one candidate .* got 0"),
    (
        ["--model", "EMPTY", "--out", "OUT", "--reference", "REF", "--bits", "8,4"],
        "--reference: expected one candidate beside it, .*, got 2; measure candidates one by one",
    ),
    (
        ["--model", "EMPTY", "--out", "OUT", "--reference", "REF", "--bits", "8", "--candidate", "EMPTY"],
        "--reference: expected one candidate beside it, .*, got 2",
    ),
    (
        ["--model", "EMPTY", "--out", "REF/../reference", "--reference", "REF", "--bits", "8", "--force"],
        "--out=.* is the directory of --reference; give the candidate its own",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), TOO_LITTLE_OR_TOO_MUCH)
def test_too_little_or_too_much_is_refused(refused, places, arguments, sentence):
    """What is measured, against what and where to must be said, and each once."""
    replaced = [re.sub("OUT|EMPTY|REF", lambda found: places[found[0]], argument) for argument in arguments]
    assert re.match(sentence, refused("measure", *replaced))
    assert not Path(places["OUT"]).exists()


def test_directory_with_a_measurement_is_refused(refused, stored, empty):
    """Whether the measurement is of one of these prompt sets, or the directory is one itself."""
    for out in (stored / "reference", stored / "reference" / "builtin"):
        sentence = refused("measure", "--model", empty, "--out", out)
        assert re.fullmatch(r"--out=.*: .*/builtin holds a measurement already; .* with --force", sentence)


def test_directory_that_cannot_be_written_is_refused(refused, tmp_path, empty):
    """A file is in the way."""
    (tmp_path / "file").touch()
    sentence = refused("measure", "--model", empty, "--out", tmp_path / "file" / "out")
    assert sentence.endswith("/file is not a directory that can be written; choose another one")


@pytest.mark.parametrize("more", [(), ("--force",)], ids=["new", "force"])
def test_measurement_that_is_a_link_elsewhere_is_refused(refused, tmp_path, empty, more):
    """Before a model is loaded; the file that it leads to is another one's."""
    place = tmp_path / "out" / "builtin" / "measurement.safetensors"
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    if more:
        (tmp_path / "elsewhere").write_bytes(b"mine")
    sentence = refused("measure", "--model", empty, "--out", tmp_path / "out", *more)
    assert sentence.startswith(f"cannot write {place}: expected a regular file or nothing there, found a link to ")


def test_directory_that_is_a_link_to_itself_is_refused(refused, stored, tmp_path):
    """Also where it is compared with the reference's directory."""
    (tmp_path / "loop").symlink_to("loop")
    asked = ("--reference", stored / "reference", "--model", "builtin", "--bits", "8", "--out", tmp_path / "loop")
    sentence = refused("measure", *asked, *QUICK)
    assert sentence.endswith("/loop is not a directory that can be written; choose another one")


@pytest.mark.parametrize("option", ["--model", "--candidate"])
def test_path_that_leads_nowhere_is_refused(refused, stored, tmp_path, empty, option):
    """The model's and the candidate's alike."""
    out, reference = ("--out", tmp_path / "out"), ("--reference", stored / "reference")
    beside = (*reference, "--model", "builtin", *QUICK) if option == "--candidate" else ()
    assert "./nowhere/model: no such file or directory" in refused("measure", option, "./nowhere/model", *out, *beside)


def test_reference_that_is_not_there_is_refused(refused, tmp_path, empty):
    """The sentence says what was expected there."""
    against = ("--reference", tmp_path / "nothing", "--bits", "int8")
    sentence = refused("measure", "--model", empty, "--out", tmp_path / "out", *against)
    assert re.match(
        r".*nothing/builtin/measurement.safetensors does not exist: expected a stored measurement", sentence
    )


def test_reference_of_other_settings_is_refused(refused, stored, tmp_path, empty):
    """Each difference is named, with what is there and what was asked for."""
    asked = ("--samples", "24", "--layers", "0,2", "--readout", "substring", "--seed", "1", "--dtype", "fp32")
    against = ("--reference", stored / "reference", "--bits", "int8")
    sentence = refused("measure", "--model", empty, "--out", tmp_path / "out", *against, *asked)
    for difference in (
        r"prompt_hash \('\w+' .*'\w+' asked for\)",
        r"layers \(\(2,\) .*\(0, 2\) asked for\)",
        r"readout \('token' .*'substring' asked for\)",
        r"attribution \('off,samples=64' .*'adaptive,.*,samples=64' asked for\)",
        r"seed \(0 .*1 asked for\)",
        r"dtype \('bf16' .*'fp32' asked for\)",
    ):
        assert re.search(difference, sentence)


def test_candidate_is_no_reference(refused, stored, tmp_path, empty):
    """A stored candidate is not what another one is measured against."""
    against = ("--reference", stored / "int8", "--bits", "nf4", *QUICK)
    assert re.search(
        r"bits \('int8' .*'reference' ", refused("measure", "--model", empty, "--out", tmp_path / "out", *against)
    )


def test_candidate_of_the_references_precision_is_refused(refused, stored, tmp_path):
    """It would be equal to it."""
    against = ("--reference", stored / "reference", "--bits", "16", *QUICK)
    assert "precision of the reference" in refused("measure", "--model", "builtin", "--out", tmp_path / "out", *against)


def test_reference_of_another_model_is_refused(refused, stored, tmp_path):
    """What is quantized must be what was measured; the sentence says how to measure it anew."""
    other = shutil.copytree(builtin.DIRECTORY, tmp_path / "other")
    (other / "generation_config.json").write_text("{}")
    against = ("--reference", stored / "reference", "--bits", "int8", *QUICK)
    sentence = refused("measure", "--model", other, "--out", tmp_path / "out", *against)
    assert re.match(f".*reference/builtin was measured on other files than those of {other}: sha256", sentence)
    assert sentence.endswith("or write it anew with `measure`")


def test_damaged_reference_is_refused(refused, copied, tmp_path, empty):
    """Its files are not what was saved."""
    path = copied / "reference" / "builtin" / "measurement.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    against = ("--reference", copied / "reference", "--bits", "int8", *QUICK)
    assert "reference/builtin" in refused("measure", "--model", empty, "--out", tmp_path / "out", *against)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--samples=9", "--samples: expected a whole number of at least 10 (ten calibration bins need ten prompts)"),
        ("--bits=nf5", "--bits: expected one of bf16, "),
        ("--layers=first", "--layers: expected paper, all or block numbers"),
        ("--device=gpu", "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("--attribution-samples=0", "--attribution-samples: expected a whole number of at least 1 (--attribution=off "),
        ("--model=", "--model: expected a value, got nothing"),
        ("--prompts=nowhere.csv", "nowhere.csv"),
    ],
)
def test_bad_values_are_refused_by_name(refused, tmp_path, empty, argument, sentence):
    """With the sentences of pytest's options; flags that they name are this command's."""
    found = refused("measure", "--model", empty, "--out", tmp_path / "out", argument)
    assert sentence in found
    assert "--quantcheck" not in found


def test_values_are_those_of_pytests_options():
    """Of each option that both have, the default is the same but for the candidates'."""
    defaults = {option.field: option.value() for option in OPTIONS}
    assert vars(settings("--model", "builtin")) == defaults | {"model": "builtin", "bits": ()}
    with pytest.raises(SettingsError, match="expected 'builtin' once, got it twice"):
        settings("--model", "builtin", "--prompts", "builtin", "--prompts", "builtin")

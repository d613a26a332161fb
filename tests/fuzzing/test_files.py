"""Whatever is wrong with a file: a refusal in one sentence within a second, or what the valid file means.

A longer search: `pytest tests/fuzzing --hypothesis-profile=long`.
"""

import csv
import hashlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.checksums import verify
from pytest_quantcheck.models.files import SUMS, resolve_files
from pytest_quantcheck.models.released import recognise
from pytest_quantcheck.models.source import Source, declared
from pytest_quantcheck.options import OPTIONS
from pytest_quantcheck.profiles import Profile, load_profile, read_profile
from pytest_quantcheck.profiles.reading import MOST_PROMPTS
from pytest_quantcheck.profiles.writing import toml_string
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.storage import load_measurement, load_provenance, save_measurement
from tests.fuzzing.mistakes import TEXTS, misspelt, mistaken, outcome
from tests.storage.stored import read, text, write, write_text
from tests.storage.synthetic import synthetic

PROFILE = {
    "schema": 1,
    "name": "strict",
    "version": 2,
    "description": "For tests.",
    "decision": {"confidence": 0.9, "inconclusive": "fail"},
    "metrics": {
        "ace_drift": {"max": 0.25, "evidence": "measured", "from_prompts": 256},
        "salient_overlap": {"min": 0.75, "evidence": "measured"},
        "redundancy_change": {
            "max": 0.02,
            "evidence": "measured",
            "override": [
                {"bits": "nf4", "layer": "last", "max": 0.05, "evidence": "measured, too"},
                {"model": "m", "max": 0.01, "evidence": "measured, too"},
            ],
        },
    },
}
QUANTIZED = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "dtype": "bfloat16",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "text_config": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}},
}
ROWS = [{"prompt": f"is {number} even", "gold": str(number % 2 == 0), "more": "x"} for number in range(12)]


def toml(value):
    """Return a value in TOML, tables inline; None as a word that TOML does not know."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return toml_string(value) if len(value) < 100 else json.dumps(value)
    return repr(value).lower() if value is None or isinstance(value, bool) else repr(value)


def document(values):
    """Return the text of a profile."""
    return "\n".join(f"{toml(str(key))} = {toml(value)}" for key, value in values.items())


VALID_PROFILE = read_profile(document(PROFILE).encode(), "p.toml")


@given(mistaken(PROFILE).map(document) | misspelt(document(PROFILE)))
def test_profile(content):
    """A profile in TOML, one value or stretch of which is another; one that is read can fail a candidate."""
    found = outcome(read_profile, content.encode(errors="surrogatepass"), "p.toml")
    assert isinstance(found, Profile | str)
    for rule in found.rules if isinstance(found, Profile) else ():
        assert METRICS[rule.limit.metric].can_limit(rule.limit.value)
        assert 1 <= rule.limit.from_prompts <= MOST_PROMPTS


@given(st.permutations(list(PROFILE)), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff", "# said\n"]))
def test_profile_written_otherwise(order, line_end, start):
    """Order, line ends, a byte order mark and comments mean nothing."""
    content = start + document({key: PROFILE[key] for key in order}).replace("\n", line_end)
    assert outcome(read_profile, content.encode(), "p.toml") == VALID_PROFILE


def jsonl(rows):
    """Return rows as JSONL."""
    return "\n".join(map(json.dumps, rows))


def comma_separated(rows):
    """Return rows as CSV."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows([list(rows[0]), *(row.values() for row in rows)])
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory for the files of one kind."""
    return tmp_path_factory.mktemp("fuzzed")


def read_text(path, content):
    """Return the prompt set of a file with this content."""
    path.write_bytes(content.encode(errors="surrogatepass"))
    found = outcome(read_prompts, str(path))
    if isinstance(found, PromptSet):
        assert len(set(found.prompts)) >= 10
        assert all(found.golds)
    return found


@given(mistaken(ROWS).map(jsonl) | misspelt(jsonl(ROWS)))
def test_prompts_as_jsonl(place, content):
    """Rows as JSON objects."""
    assert isinstance(read_text(place / "p.jsonl", content), PromptSet | str)


@given(misspelt(comma_separated(ROWS)))
def test_prompts_as_csv(place, content):
    """Rows behind a header."""
    assert isinstance(read_text(place / "p.csv", content), PromptSet | str)


@given(st.permutations(list(ROWS[0])), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]))
def test_prompts_written_otherwise(place, order, spaced, line_end, start):
    """Order of columns, blanks, line ends and a byte order mark mean nothing, nor which of the formats it is."""
    expected = read_text(place / "p.jsonl", jsonl(ROWS))
    rows = [{key: row[key] for key in order} for row in ROWS]
    lines = [json.dumps(row, separators=(" , ", " : ") if spaced else None) for row in rows]
    obtained = read_text(place / "p.jsonl", start + line_end.join(lines) + line_end * spaced)
    assert (obtained.prompts, obtained.golds, obtained.rows) == (expected.prompts, expected.golds, expected.rows)
    as_csv = read_text(place / "p.csv", start + comma_separated(rows))
    assert (as_csv.prompts, as_csv.golds, as_csv.rows) == (expected.prompts, expected.golds, expected.rows)


SPELLINGS = {
    "model": "organisation/model",
    "revision": "main",
    "candidate": "organisation/model-4bit@main",
    "columns": "prompt=question,gold=answer",
    "template": "raw:Q: {prompt}",
    "layers": "0,14,29",
    "attribution": "nodes=50,baseline=zero,target=own",
    "fail": "ace_drift:0.05",
    "allow-unmeasured": "salient_overlap",
    "calibrate": "strict@2",
    "redundancy-neurons": "4096",
    "device": "cuda:1",
    "baseline": "baseline",
    "cache": "cache",
    "report": "report",
    "neurons": "model.layers.{}.mlp.act_fn",
}


def parse(option, raw):
    """Return an option's value of one text, as the command line and an ini file give it."""
    try:
        return option.value([raw] if option.kind == "list" else raw)
    except ValueError as problem:
        raise SettingsError(str(problem)) from None


@given(st.data())
def test_option(data):
    """The value of an option, one stretch of which is another."""
    option = data.draw(st.sampled_from([option for option in OPTIONS if option.kind != "flag"]))
    raw = data.draw(misspelt(SPELLINGS.get(option.name) or option.default or "word") | TEXTS)
    outcome(parse, option, raw)


@given(mistaken(QUANTIZED).map(json.dumps) | misspelt(json.dumps(QUANTIZED)))
def test_configuration(place, content):
    """The configuration of a quantized checkpoint, as far as it is read before anything is loaded."""
    (place / "config.json").write_bytes(content.encode(errors="surrogatepass"))
    (place / "model.safetensors").touch()
    assert isinstance(outcome(declared, str(place)), dict)
    outcome(lambda: recognise(resolve_files(Source(str(place)))))


@pytest.fixture(scope="module")
def summed(tmp_path_factory):
    """A checkpoint of two files, and the text of sums that vouch for them."""
    folder = tmp_path_factory.mktemp("summed")
    lines = []
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_bytes((builtin.DIRECTORY / name).read_bytes())
        lines.append(f"{content_sum(folder / name)}  {name}")
    (folder / "model.safetensors").touch()
    return folder, "\n".join(lines)


def content_sum(path):
    """Return a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@given(st.data())
def test_sums(summed, data):
    """Sums beside a checkpoint: they agree with its files, or are refused."""
    folder, valid = summed
    (folder / SUMS).write_bytes(data.draw(misspelt(valid)).encode(errors="surrogatepass"))
    obtained = outcome(verify, resolve_files(Source(str(folder))))
    assert obtained in ([], None) or SUMS in obtained


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A directory with a small measurement, and its document and arrays."""
    folder = tmp_path_factory.mktemp("stored")
    save_measurement(synthetic(prompts=10, width=4, correlated=4, tokens=64, support=4, vocabulary=32), folder)
    return folder, *read(folder)


@given(st.data())
def test_measurement(stored, data):
    """The document of a measurement that is sealed anew, as one is that somebody made to be read."""
    folder, valid, arrays = stored
    write(folder, data.draw(mistaken(valid)), arrays)
    assert isinstance(outcome(load_provenance, folder), Provenance | str)
    assert isinstance(outcome(load_measurement, folder), Measurement | str)


@given(st.data())
def test_measurement_as_text(stored, data):
    """The same where a stretch of its text is another."""
    folder, valid, _ = stored
    write_text(folder, data.draw(misspelt(text(valid))))
    assert isinstance(outcome(load_provenance, folder), Provenance | str)


def test_published_profiles_stay_valid():
    """What the mistakes begin with is no stricter than what is published."""
    assert [load_profile(label).label for label in ("default@1", "default@2")] == ["default@1", "default@2"]

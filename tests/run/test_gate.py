"""A gate loads each model once, keeps what it found, and never takes the reference for a candidate."""

import gc
import json
import shutil
import warnings
from dataclasses import replace

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from pytest_quantcheck.errors import ComparisonError, ModelError, SettingsError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.local_models import LocalModels
from tests.gates import CountingGate, settings


class UnquantizingModels(LocalModels):
    """Does not quantize, like a library that skips layers it does not know."""

    def load(self, target):
        return super().load(replace(target, load_as="reference"))


class OverflowingModels(LocalModels):
    """Controls overflow, as half precision does where scales are wrong."""

    def load(self, target):
        loaded = super().load(target)
        if target.kind == "control":
            loaded.model.get_output_embeddings().weight.mul_(float("inf"))
        return loaded


class WarningModels(LocalModels):
    """Uses a library that warns of itself."""

    def load(self, target):
        warnings.warn("this way of loading is deprecated", DeprecationWarning, stacklevel=1)
        return super().load(target)


@pytest.fixture(scope="module")
def gate():
    """A gate on the built-in model."""
    return CountingGate(settings())


@pytest.fixture
def folder(tmp_path):
    """A copy of the built-in model, to be changed."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin.DIRECTORY / name, tmp_path)
    return tmp_path


def test_nothing_is_measured_twice(gate):
    """Asked again, in another spelling too, the gate gives the same objects; each model was loaded once."""
    comparison = gate.compare("int8")
    assert gate.compare("8", "builtin") is comparison
    assert gate.compare(8) is comparison
    assert gate.measure("int8") is gate.measure("8")
    assert gate.measure() is gate.measure("reference")
    assert sorted(gate.loads) == ["int8", "reference"]


def test_comparison_brings_its_profile(gate):
    """So that a user's assertion judges by what the run was asked to judge by."""
    assert gate.compare("int8").profile == gate.profile


def test_metric_that_is_not_gated_has_no_verdict(gate):
    """`judge` gives None for what the profile has no limit for, a verdict for the rest."""
    assert gate.judge("kl_divergence", "int8").candidate == "int8"
    kept = tuple(rule for rule in gate.profile.rules if rule.limit.metric != "kl_divergence")
    other = Gate(settings())
    other.profile = msgspec.structs.replace(other.profile, rules=kept)
    assert other.judge("kl_divergence", "int8") is None


def test_model_is_loaded_once_for_all_prompt_sets(tmp_path):
    """Two prompt sets, two models, two loads."""
    lines = builtin.PROMPTS.read_text().splitlines()[:12]
    (tmp_path / "other.jsonl").write_text("\n".join(lines))
    gate = CountingGate(settings(prompts=("builtin", str(tmp_path / "other.jsonl"))))
    found = [gate.compare("int8", name).prompt_set for name in ("builtin", "other")]
    assert found == ["builtin", "other"]
    assert sorted(gate.loads) == ["int8", "reference"]


def test_prompt_set_must_be_named_where_there_are_two(tmp_path):
    """Left out, it would be a guess."""
    shutil.copy(builtin.PROMPTS, tmp_path / "other.jsonl")
    gate = Gate(settings(prompts=("builtin", str(tmp_path / "other.jsonl"))))
    with pytest.raises(
        SettingsError, match=r"expected the name of a prompt set \(builtin, other\), got None\. Name one"
    ):
        gate.compare("int8")


def test_comparison_says_that_prompts_repeat(tmp_path):
    """Each is measured once, so that intervals take none for further evidence."""
    path = tmp_path / "repeated.jsonl"
    rows = builtin.PROMPTS.read_text().splitlines()
    path.write_text("\n".join(rows[:12] + rows[:6]))
    comparison = Gate(settings(prompts=(str(path),), samples=18)).compare("int8")
    assert comparison.notes[0] == "6 of 18 prompts are the same tokens as others: each is measured once"
    assert (comparison.n_prompts, comparison.evidence.inputs, comparison.evidence.prompts) == (12, 12, 18)


def test_error_is_raised_again_without_a_new_try(tmp_path):
    """A model that cannot be loaded is not loaded again for the next metric or candidate."""
    config = MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=3, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for path in builtin.DIRECTORY.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    gate = CountingGate(settings(model=str(tmp_path)))
    errors = []
    for bits in ("int8", "nf4", "int8"):
        with pytest.raises(ModelError) as caught:
            gate.compare(bits)
        errors.append(caught.value)
    assert gate.loads == ["reference"]
    assert errors[0] is errors[1] is errors[2]


def test_error_that_is_raised_again_keeps_its_traceback_short(tmp_path):
    """It shows where it came from, and nothing of the tests that it passed before."""
    gate, depths = Gate(settings(model=str(tmp_path))), []
    for _ in range(3):
        with pytest.raises(ModelError) as caught:
            gate.measure()
        depths.append([entry.name for entry in caught.traceback])
    assert depths[1] == depths[2]
    assert depths[0][-1] == depths[2][-1] != "_raise_again"


def in_memory(kind):
    """How many objects of a class there are; other tests of this process may hold some."""
    gc.collect()
    return sum(type(thing).__name__ == kind for thing in gc.get_objects())


def test_error_that_is_kept_keeps_no_model(folder):
    """A model that failed leaves memory, so that the next candidate has room."""
    (folder / "model.safetensors").unlink()
    config = MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=3, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    before = in_memory("MambaForCausalLM")
    gate = Gate(settings(model=str(folder)))
    with pytest.raises(ModelError, match="no FFN was found"):
        gate.measure()
    assert in_memory("MambaForCausalLM") == before


def test_candidate_that_was_never_quantized(gate):
    """Not one answer or activation differs: an error, each time it is asked for, and no verdict."""
    forgetful = Gate(settings(), models=UnquantizingModels())
    for _ in range(2):
        with pytest.raises(ComparisonError, match=r"on builtin: .* this candidate was never quantized"):
            forgetful.judge("kl_divergence", "int8")


def test_control_is_loaded_once_for_all_prompt_sets(tmp_path):
    """Fresh from its files, and only its comparisons are kept: a gate has many controls."""
    lines = builtin.PROMPTS.read_text().splitlines()[:12]
    (tmp_path / "other.jsonl").write_text("\n".join(lines))
    gate = CountingGate(settings(prompts=("builtin", str(tmp_path / "other.jsonl"))))
    found = [gate.compare("three-bits", name) for name in ("builtin", "other")]
    assert [(one.candidate, one.prompt_set) for one in found] == [("three-bits", "builtin"), ("three-bits", "other")]
    assert gate.compare("three-bits", "other") is found[1]
    assert gate.loads == ["reference", "reference"]
    assert {name for name, _ in gate._measured} == {"reference"}


def test_defect_leaves_the_next_model_alone(gate):
    """What is loaded after a defect is the reference again, bit for bit."""
    gate.compare("zeroed-rows")
    with gate.load() as loaded, load(Source("builtin")) as fresh:
        weights = zip(loaded.model.parameters(), fresh.model.parameters(), strict=True)
        assert all(torch.equal(one, two) for one, two in weights)


@pytest.mark.parametrize(
    ("null", "done", "batch_size", "dtype"),
    [
        ("null-batches", "batches of 5 instead of 16 prompts, in another order", 5, "bf16"),
        ("null-dtype", "loaded as fp32", 16, "fp32"),
        ("null-kernels", "eager attention instead of sdpa", 16, "bf16"),
    ],
)
def test_null_is_the_reference_under_other_conditions(gate, null, done, batch_size, dtype):
    """It is measured so, and no more moves than rounding moves: no answer by 0.01 nats on average.

    Whether other batches and other kernels move anything depends on the processor; another float format does.
    """
    result, comparison = gate.judge_control(null), gate.compare(null)
    assert (result.outcome, result.done, result.seen_by) == ("passed", done, ())
    measured = comparison.candidate_provenance
    assert (measured.batch_size, measured.dtype) == (batch_size, dtype)
    assert null != "null-dtype" or not comparison.identical
    assert comparison.of("kl_divergence")[0].value < 0.01


def test_null_of_an_fp32_reference_is_bf16():
    """The other format is never the reference's own."""
    gate = CountingGate(settings(dtype="fp32"))
    assert gate.judge_control("null-dtype").done == "loaded as bf16"
    assert gate.loads == ["reference", "bf16"]


def test_defect_is_seen(gate):
    """The result names the metrics that saw it, and what was done."""
    result = gate.judge_control("three-bits")
    assert result.outcome == "passed"
    assert "redundancy_change" in result.seen_by
    assert "3 bits" in result.done


def test_control_that_equals_the_reference_is_no_error():
    """For a candidate that is a sign that it was never quantized; a null may be as good."""
    forgetful = Gate(settings(), models=UnquantizingModels())
    assert forgetful.compare("null-dtype").identical
    assert forgetful.judge_control("null-dtype").outcome == "passed"


def test_control_that_is_not_applicable_says_why(folder):
    """A checkpoint that asks for eager attention has no other kernels; that is no error, asked again either."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    gate = CountingGate(settings(model=str(folder)))
    for _ in range(2):
        result = gate.judge_control("null-kernels")
        assert (result.outcome, result.verdicts) == ("not applicable", ())
        assert result.reason.startswith("LlamaForCausalLM runs eager attention already")
    assert gate.loads == ["reference", "reference"]


def test_defect_that_leaves_no_number_is_caught():
    """A model with infinite logits has no verdicts, and no gate lets it out."""
    result = Gate(settings(), models=OverflowingModels()).judge_control("three-bits")
    assert (result.outcome, result.verdicts) == ("passed", ())
    assert "kl_divergence" in result.seen_by
    assert "NaN or infinite" in result.reason


def test_unknown_control_is_refused(gate):
    """The sentence lists those that there are, the nearest first."""
    with pytest.raises(
        SettingsError, match=r"or a control \(four-bit-router, three-bits, .*wrong-scales.*\), got 'four-bits'"
    ):
        gate.judge_control("four-bits")


def test_declared_precision_is_refused_before_loading(folder):
    """config.json says bf16, and so does the candidate."""
    with pytest.raises(SettingsError, match="names bf16, which is the precision of the reference"):
        Gate(settings(model=str(folder), bits=("bf16",)))


def test_undeclared_precision_is_refused_after_loading(folder):
    """Where config.json does not say it, the loaded reference does."""
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    gate = Gate(settings(model=str(folder), bits=("bf16", "fp32")))
    same = gate.measure().provenance.dtype
    with pytest.raises(SettingsError, match=f"names {same}, which is the precision of the reference"):
        gate.measure(same)


def test_library_that_warns_costs_nothing():
    """Under `-W error`, as in this project's own tests, a library's warning of itself does not stop the gate."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Gate(settings(), models=WarningModels()).measure().provenance.dtype == "bf16"


def test_path_that_leads_nowhere_is_refused_at_once(tmp_path):
    """No library is asked."""
    with pytest.raises(ModelError, match="no such file or directory"):
        Gate(settings(model=str(tmp_path / "nowhere")))

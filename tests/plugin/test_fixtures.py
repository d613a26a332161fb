"""What a user's own tests get: the gate, each model loaded and freed, and assertions."""

import re

import pytest

NEEDING = """
import pytest

def test_gate(quantcheck): pass
def test_bits(quantcheck_bits): pass
def test_reference(quantcheck_reference_model): pass
def test_candidate(quantcheck_candidate_model): pass
def test_int8(quantcheck_int8_model): pass
def test_nf4(quantcheck_nf4_model): pass
def test_fp4(quantcheck_fp4_model): pass
def test_plain(): pass
"""
WRONG_NAMES = """
import pytest
from pytest_quantcheck import QuantcheckError

def test_bits(quantcheck):
    with pytest.raises(QuantcheckError, match="expected a model of .* .int8, .*, got 'int7'. Did you mean 'int8'"):
        quantcheck.load("int7")

def test_prompts(quantcheck):
    with pytest.raises(QuantcheckError, match="expected .* prompt set .builtin., got 'boolq'. Name one of these"):
        quantcheck.measure("int8", "boolq")
"""


OWN_CANDIDATES = """
import unittest
import pytest

@pytest.mark.parametrize("quantcheck_bits", ["int8"], indirect=True)
def test_indirect(quantcheck_bits):
    assert quantcheck_bits == "int8"

@pytest.mark.parametrize(argnames="limit, quantcheck_bits", argvalues=[(1, "fp4"), (2, "nf4")])
def test_beside_another(quantcheck_bits, limit):
    assert quantcheck_bits == {1: "fp4", 2: "nf4"}[limit]

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def bits(self, quantcheck_bits): pass

    def test_case(self): pass
"""


MISTAKES = """
import unittest
import pytest
from pytest_quantcheck import assert_metric

def test_metric():
    assert_metric(None, "ace_drfit")  # wrong

def test_metric_of_profile(quantcheck):
    quantcheck.profile.limit("ace_drfit", bits="int8")  # wrong

def test_metric_for_limit(quantcheck):
    quantcheck.profile.with_limits([("ace_drfit", 0.1)])  # wrong

def test_candidate(quantcheck):
    quantcheck.compare("int7")  # wrong

def test_prompts(quantcheck):
    quantcheck.compare("int8", "buildin")  # wrong

@pytest.mark.parametrize("quantcheck_bits", ["int7"])
def test_fixture(quantcheck_candidate_model): pass

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def gate(self, quantcheck): self.gate = quantcheck

    def test_candidate(self):
        self.gate.measure("int7")  # wrong
"""
FIXTURE = "with quantcheck.load(quantcheck_bits) as loaded:"
BUG = """
from pytest_quantcheck import judge, load_profile

def test_bug():
    judge(None, "ace_drift", load_profile("default@2"))
"""


def test_without_a_model_nothing_is_there(gate, pytester):
    """No header, no items; tests that need a model are skipped and say what they need, the others run."""
    pytester.makepyfile(NEEDING)
    found = gate("-rs")
    assert found.status == 0
    assert "1 passed, 7 skipped" in found.lines[-1]
    assert all(line.endswith("needs --quantcheck-model=MODEL") for line in found.lines if line.startswith("SKIPPED"))
    assert not any(line.startswith("quantcheck") for line in found.lines)


def test_skipping_does_not_depend_on_the_users_ini(gate, pytester):
    """A project that forbids empty parameter sets can still be run without a model."""
    pytester.makepyfile(NEEDING)
    pytester.makeini("[pytest]\nempty_parameter_set_mark = fail_at_collect")
    assert gate().status == 0


def test_fixtures_are_documented(gate):
    """`pytest --fixtures` lists each with a sentence."""
    lines = gate("--fixtures").lines
    for name in ("quantcheck", "quantcheck_bits", "quantcheck_reference_model", "quantcheck_int8_model"):
        (place,) = (i for i, line in enumerate(lines) if line.split(" ")[0] == name and "plugin.py" in line)
        assert lines[place + 1].strip().endswith((".", ","))


def test_each_candidate_is_a_parameter(gate, pytester):
    """`quantcheck_bits` takes each bit-width in turn, also by way of the fixture that loads it."""
    pytester.makepyfile(test_u="def test_a(quantcheck_bits): pass\ndef test_b(quantcheck_candidate_model): pass")
    found = gate("--quantcheck-model=builtin", "--quantcheck-bits=fp4,8", "--collect-only", "-q", "test_u.py")
    assert sorted(found.ids[:4]) == sorted(f"test_u.py::test_{n}[{bits}]" for n in "ab" for bits in ("fp4", "int8"))


@pytest.mark.parametrize("test", ["gate_compares", "reference", "reference_freed", "int8", "int8_freed"])
def test_models_and_gate_work(whole_run, test):
    """Comparisons are made once, models are real, and freed after the test."""
    assert f"test_users.py::test_{test}" not in failed_users(whole_run)


def test_candidate_fixture_loads_each(whole_run):
    """One test for each bit-width, and both pass."""
    assert not any("test_candidate" in line for line in failed_users(whole_run))
    assert "2 failed, 15 passed" in whole_run.lines[-1]


def test_only_the_unmet_limit_fails(whole_run):
    """An explicit limit is judged in place of the profile's; a failed assertion is the one failed test."""
    assert failed_users(whole_run) == ["test_users.py::test_limit_is_kept"]


def test_failed_assertion_says_everything(whole_run):
    """Candidate, prompt set, layer, value with interval, limit, prompts, profile and version."""
    errors = [line[1:].strip() for line in whole_run.lines if line.startswith("E  ")]
    assert errors[0].endswith("redundancy change of nf4 on builtin at layer 2 is above its limit")
    facts = dict(line.split(None, 1) for line in errors[1:] if line)
    assert "95 % interval" in facts["value"]
    assert facts["limit"] == "at most 0.0010 (limit=; profile trial@3)"
    assert facts["prompts"].startswith("24 of builtin (")


def test_failed_assertion_shows_no_inside(whole_run):
    """The traceback is the user's line alone."""
    assert not any("assertions.py" in line or "judging.py" in line for line in whole_run.lines)


def test_candidates_of_ones_own(gate, pytester):
    """A test may say with which candidates it runs; where pytest can give it none, the error says what to do."""
    pytester.makepyfile(test_own=OWN_CANDIDATES)
    found = gate("--quantcheck-model=builtin", "-k", "test_own")
    assert "3 passed" in found.lines[-1]
    assert "1 error" in found.lines[-1]
    assert any("loop over quantcheck.candidates" in line for line in found.lines)


def test_wrong_names_are_refused_before_a_model_is_loaded(gate, pytester):
    """A bit-width or a prompt set that is not there: a sentence with those that are."""
    pytester.makepyfile(test_names=WRONG_NAMES)
    found = gate("--quantcheck-model=builtin", "-k", "test_names")
    assert "2 passed" in found.lines[-1]


def test_mistake_shows_the_users_line_and_a_sentence(gate, pytester):
    """A wrong name ends at the line that has it, in a TestCase and a fixture too; --full-trace shows the rest."""
    pytester.makepyfile(test_mistakes=MISTAKES)
    arguments = ("--quantcheck-model=builtin", "--quantcheck-bits=8", "--deselect=quantcheck")
    found = gate(*arguments)
    assert re.search("6 failed.* 1 error", found.lines[-1])
    marked = [line.removeprefix(">").strip() for line in found.lines if line.startswith(">")]
    assert sorted(marked) == sorted([*re.findall(r"^ +(.+# wrong)", MISTAKES, re.MULTILINE), FIXTURE])
    said = [line for line in found.lines if line.startswith("E  ")]
    assert len(said) == len(marked)
    assert all(re.search(r"expected .+, got '\w+'\. Did you mean '\w+'\?$", line) for line in said)
    places = [line.rpartition("/")[2] for line in found.lines if re.search(r"\.py:\d+: ", line)]
    assert {line.partition(":")[0] for line in places} == {"test_mistakes.py", "plugin.py"}
    assert "targets.py" in gate(*arguments, "--full-trace", "-k", "test_candidate").text


def test_bug_keeps_its_traceback(gate, pytester):
    """What is no mistake that we foresee shows every frame of ours."""
    pytester.makepyfile(test_bug=BUG)
    found = gate("test_bug.py")
    assert "1 failed" in found.lines[-1]
    assert any("judging.py" in line for line in found.lines)


def failed_users(run):
    """Node ids of the user's tests that failed."""
    lines = (line.split(" - ")[0] for line in run.lines if line.startswith("FAILED test_users"))
    return [line.removeprefix("FAILED ") for line in lines]

"""A model that cannot be read is told from one that is unfit, and its cause is told once."""

import json
from xml.etree import ElementTree as ET

import pytest

QUICK = (
    "--quantcheck-only",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-attribution=off",
    "--quantcheck-report=out",
    "--junitxml=junit.xml",
)
N = 9  # metrics of default@2 without attributions


UNQUANTIZED = "a candidate at full precision"


def flip(data):
    """Change the last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE = {
    "truncated": lambda data: data[:-1000],
    "empty": lambda _data: b"",
    "no JSON in the header": lambda data: data[:8] + b"{" * 100 + data[108:],
}


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def run(gate, checkpoint, monkeypatch):
    """Runs a gate and gives all that it says; its model or its candidate may be a checkpoint that cannot be gated."""

    def run(*arguments, damage=None):
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        options = ["--quantcheck-model=builtin"]
        if damage in DAMAGE:
            path = checkpoint / "model.safetensors"
            path.write_bytes(DAMAGE[damage](path.read_bytes()))
            options = [f"--quantcheck-model={checkpoint}"]
        elif damage:
            options += [f"--quantcheck-candidate={checkpoint}"]
        if damage != UNQUANTIZED:
            options += ["--quantcheck-bits=8"]
        found = gate(*options, *QUICK, *arguments)
        return found, json.loads((found.directory / "out" / "report.json").read_text())

    return run


def count_junit(found):
    """Return the numbers of errors and of failures in the JUnit file."""
    (suite,) = ET.parse(found.directory / "junit.xml").getroot()
    return int(suite.get("errors")), int(suite.get("failures"))


@pytest.mark.parametrize(("damage", "name"), [*((damage, "int8") for damage in DAMAGE), (UNQUANTIZED, "checkpoint")])
def test_broken_candidate_is_an_error(run, damage, name):
    """JUnit has errors, report.json says broken, the first line could not be judged; the cause stands once."""
    found, report = run(damage=damage)
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert count_junit(found) == (N, 0)
    assert report["outcome"] == "broken"
    assert f"{name}: could not be judged ({N} tests without a verdict)" in found.lines
    assert f"{N} errors in" in found.lines[-1]
    assert len(report["causes"][name]) == N
    cause, section = report["causes"][name][0], found.lines[: found.lines.index(first(found, "= quantcheck:"))]
    assert section.count(cause) == 1
    pointer = f"could not be judged: the same cause as quantcheck::test_confidence_drift[{name}-builtin], see above"
    assert section.count(pointer) == N - 1
    assert (found.directory / "out" / "report.html").read_text().count(f"Could not be judged: {name}")


def first(found, text):
    """Return the first line that has the text."""
    return next(line for line in found.lines if text in line)


def test_unfit_candidate_is_a_failure(run):
    """JUnit has failures, report.json says failed, the summary's first line not fit for release."""
    found, report = run("--quantcheck-fail=redundancy_change:0.0001")
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert count_junit(found) == (0, 1)
    assert report["outcome"] == "failed"
    assert first(found, "int8: not fit for release (1 failed")


def test_unfit_beside_broken_is_unfit(run):
    """A verdict against a candidate outweighs another candidate that could not be judged."""
    found, report = run("--quantcheck-fail=redundancy_change:0.0001", "--quantcheck-bits=8", damage=UNQUANTIZED)
    assert count_junit(found) == (N, 1)
    assert (report["outcome"], [*report["causes"]]) == ("failed", ["checkpoint"])


@pytest.mark.ci
def test_broken_reference_is_told_once_for_all_candidates(run):
    """The reference breaks every candidate by the same cause."""
    found, report = run("--quantcheck-bits=8,4", damage="empty")
    assert report["outcome"] == "broken"
    assert [*report["causes"]] == ["int8", "nf4"]
    assert sum(line.startswith("could not be judged: the same cause as") for line in found.lines) == 2 * N - 1


@pytest.mark.ci
def test_workers_tell_a_cause_once(run):
    """With xdist, too: the controller knows what it has shown."""
    found, report = run("-n", "2", damage=UNQUANTIZED)
    assert (report["outcome"], count_junit(found)) == ("broken", (N, 0))
    assert sum(line.startswith("could not be judged: the same cause as") for line in found.lines) == N - 1
    assert len(report["causes"]["checkpoint"]) == N


def test_first_error_stops_the_run(run):
    """-x stops at it, and --lf runs the broken tests again."""
    found, report = run("-x", damage="truncated")
    assert "1 error in" in found.lines[-1]
    assert report["outcome"] == "broken"


def test_last_failed_runs_broken_tests_again(gate, checkpoint, pytester):
    """--lf knows tests that ended in an error."""
    (checkpoint / "model.safetensors").write_bytes(b"")
    options = (f"--quantcheck-candidate={checkpoint}", "--quantcheck-model=builtin", *QUICK)
    pytester.makepyfile("def test_plain(): pass")
    gate(*options, "-k", "ace_drift or kl_divergence")
    assert "2 errors in" in gate(*options, "--lf").lines[-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:100],
        flip,
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: b"\xff" * 8 + data[8:],
        lambda _data: b"",
    ],
    ids=["one byte short", "cut in the header", "byte of the arrays", "byte of the header", "length", "empty"],
)
@pytest.mark.parametrize("dry", [(), ("--quantcheck-dry-run",)], ids=["run", "dry"])
def test_damaged_baseline_ends_alike(refused, tmp_path, baseline, damage, dry):
    """Whatever byte it is: exit status 4 and a sentence that names the file, before anything is loaded."""
    path = tmp_path / "stored" / "builtin" / "measurement.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage(baseline))
    sentence = refused("--quantcheck-bits=8", "--quantcheck-baseline", str(path.parents[1]), *QUICK[:-1], *dry)
    assert str(path) in sentence
    assert "measure again" in sentence


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """The bytes of a good one."""
    from pytest_quantcheck.run.gate import Gate
    from tests.gates import settings

    place = tmp_path_factory.mktemp("stored")
    Gate(settings(baseline=str(place), update_baseline=True)).measure()
    return (place / "builtin" / "measurement.safetensors").read_bytes()

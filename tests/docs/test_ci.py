"""The ready workflows: they are YAML, name what exists, and their commands gate the built-in model."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pytest_quantcheck.commands.parser import parser
from pytest_quantcheck.options import OPTIONS

CI = Path(__file__).parents[2] / "docs" / "ci"
OURS = ("pytest ", "python -m pytest_quantcheck ")


@dataclass(frozen=True)
class Workflow:
    """A workflow's variables and its commands, job after job; the text that a machine reads, and the whole."""

    variables: dict[str, str]
    commands: list[str]
    parsed: dict
    text: str


def github():
    """GitHub's."""
    text = (CI / "github.yml").read_text(encoding="utf-8")
    parsed = yaml.safe_load(text)
    steps = [step for job in parsed["jobs"].values() for step in job["steps"]]
    return Workflow(parsed["env"], [step["run"] for step in steps if "run" in step], parsed, text)


def gitlab():
    """GitLab's; what its jobs have in common comes first."""
    text = (CI / "gitlab.yml").read_text(encoding="utf-8")
    parsed = yaml.safe_load(text)
    jobs = [parsed[".quantcheck"], parsed["reference"], parsed["gate"]]
    commands = [line for job in jobs for line in (*job.get("before_script", ()), *job.get("script", ()))]
    return Workflow(parsed["variables"], commands, parsed, text)


WORKFLOWS = pytest.mark.parametrize("workflow", [github(), gitlab()], ids=["github", "gitlab"])


def ours(workflow):
    """The commands that run our own code."""
    return [command for command in workflow.commands if command.startswith(OURS)]


@WORKFLOWS
def test_every_option_exists(workflow):
    """No option is misspelled or of another version, and each value is one that it takes."""
    measure, gate = (shlex.split(os.path.expandvars(command)) for command in ours(workflow))
    parser().parse_args(measure[measure.index("pytest_quantcheck") + 1 :])
    known = {option.flag for option in OPTIONS} | {"--junitxml"}
    named = {word.partition("=")[0] for word in gate[1:]}
    assert named <= known
    assert {"--quantcheck-baseline", "--quantcheck-cache", "--quantcheck-report", "--junitxml"} <= named


@WORKFLOWS
def test_every_variable_is_set_and_used(workflow):
    """What a user is told to set reaches a command; HF_HUB_OFFLINE is read by the hub's own library."""
    used = set(re.findall(r"\$([A-Z_]+)", " ".join(ours(workflow))))
    assert used | {"HF_HUB_OFFLINE"} == set(workflow.variables)
    assert all(isinstance(value, str) for value in workflow.variables.values())


@WORKFLOWS
def test_everything_that_is_installed_is_ours_or_torch(workflow):
    """Two commands install all of it, torch as the build for CPUs."""
    installed = {command for command in workflow.commands if not command.startswith(OURS)}
    assert installed <= {
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        "pip install pytest-quantcheck",
        "pip install 'pytest-quantcheck[report]'",
    }


def test_github_keeps_what_the_gate_needs_and_says():
    """The baseline goes from job to job; cache and report are kept also when the gate is red."""
    jobs = github().parsed["jobs"]
    steps = {step["uses"].partition("@")[0]: step for step in jobs["gate"]["steps"] if "uses" in step}
    (kept,) = (step for step in jobs["reference"]["steps"] if "upload-artifact" in step.get("uses", ""))
    assert kept["with"] == steps["actions/download-artifact"]["with"]
    for action, path in (
        ("actions/cache/save", "quantcheck-cache/"),
        ("actions/upload-artifact", "quantcheck-report/"),
    ):
        assert steps[action]["if"] == "always()"
        assert steps[action]["with"]["path"] == path
    assert steps["actions/cache/save"]["with"]["key"] == steps["actions/cache/restore"]["with"]["key"]
    (limit,) = (step["timeout-minutes"] for step in jobs["gate"]["steps"] if step.get("name") == "Gate the release")
    assert limit < jobs["gate"]["timeout-minutes"], "a gate that is cut off has no time left to save its cache"


def test_gitlab_keeps_what_the_gate_needs_and_says():
    """The baseline goes from job to job; cache and report are kept also when the gate is red."""
    parsed = gitlab().parsed
    gate = parsed["gate"]
    assert (parsed["reference"]["artifacts"]["paths"], gate["needs"]) == (["baseline/"], ["reference"])
    assert (gate["cache"]["paths"], gate["cache"]["when"]) == (["quantcheck-cache/"], "always")
    assert (gate["artifacts"]["paths"], gate["artifacts"]["when"]) == (["quantcheck-report/"], "always")
    assert gate["artifacts"]["reports"]["junit"] == "quantcheck-report/junit.xml"
    limit = int(gate["variables"]["RUNNER_SCRIPT_TIMEOUT"].removesuffix("m"))
    hours = int(parsed[".quantcheck"]["timeout"].removesuffix(" hours"))
    assert limit < 60 * hours, "a gate that is cut off has no time left to save its cache"


@pytest.mark.slow
@WORKFLOWS
def test_commands_gate_the_built_in_model(workflow, tmp_path):
    """In an empty folder, in order, with the workflow's own variables: green, and all files are where they are kept."""
    page = tmp_path / "summary.md"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = clean | workflow.variables | {"PATH": path, "GITHUB_STEP_SUMMARY": str(page)}
    for command in ours(workflow):
        done = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "quantcheck-report"
    assert {file.name for file in report.iterdir()} == {"report.json", "report.html", "junit.xml"}
    assert "quantcheck_limit" in (report / "junit.xml").read_text()
    assert "may be released" in page.read_text(encoding="utf-8")
    assert any((tmp_path / "quantcheck-cache").iterdir())

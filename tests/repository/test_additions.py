"""A metric, a format and a control are each added in one place, and are then everywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import pytest_quantcheck
from pytest_quantcheck.comparing import IntervalSettings, estimators
from pytest_quantcheck.comparing.answer_estimates import prompt_estimates
from pytest_quantcheck.judging import judge
from pytest_quantcheck.metrics import METRICS, Metric
from pytest_quantcheck.models import builtin
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Answers, Comparison
from tests.docs import reference
from tests.provenance import ANY

ROOT = Path(__file__).parents[2]

TRIAL = '''
"""A metric, a format and a control: the rows, and the functions that they name."""

import torch
from torch import nn

from pytest_quantcheck.comparing.answer_estimates import share
from pytest_quantcheck.comparing.estimators import estimates
from pytest_quantcheck.controls.catalogue import CONTROLS, Control
from pytest_quantcheck.metrics import METRICS, Metric
from pytest_quantcheck.models import formats
from pytest_quantcheck.models.formats.format import Format, QuantizedLayer

METRICS["trial_share"] = Metric("trial_share", "trial share", "share tried", "share of trials", "max", ("answers",))


@estimates("trial_share")
def trial_share(before, after, intervals):
    n = len(before.index)
    moved = int((before.confidence != after.confidence).sum())
    interval = share(moved, n, confidence=intervals.confidence)
    return intervals.estimate("trial_share", moved / n, interval, n, method="trial")


CONTROLS["trial-control"] = Control("trial-control", "defect", "All logits with the other sign.", "trial:turn")


def turn(site):
    site.loaded.model.get_output_embeddings().weight.data.neg_()
    return "every logit has the other sign"


class TrialLinear(nn.Linear):
    """Codes in the weight, a scale beside them."""

    def forward(self, x):
        return nn.functional.linear(x, (self.weight * self.scale).to(x.dtype))


def load(read, _tensors):
    model = read(dtype="auto")
    for module in [module for name, module in model.named_modules() if name.endswith("_proj")]:
        module.scale = module.weight.data.abs().max() / 127
        module.weight.data = (module.weight.data / module.scale).round()
        module.__class__ = TrialLinear
    return model


LAYER = QuantizedLayer("trial", lambda module: type(module) is TrialLinear, lambda m: (m.weight * m.scale).float())
ROW = Format(method="trial", describe=lambda config: "trial 8 bit", layers=(LAYER,), load=load)
formats.FORMATS, formats.LAYERS = (*formats.FORMATS, ROW), (*formats.LAYERS, LAYER)
'''

ROW = Metric("trial_share", "trial share", "share that is tried", "share of all that is tried", "max", ("answers",))


def answers():
    """Forty prompts, all answered alike."""
    alike = np.full(40, 0.5)
    rest = np.full((40, 1), np.log(0.5), dtype=np.float32)
    tokens = np.ones((40, 1), dtype=np.int32)
    return Answers(np.arange(40), tokens[:, 0].astype(int), alike, alike > 0, tokens, rest, rest[:, 0], exact=False)


@pytest.fixture
def comparison(monkeypatch):
    """A comparison that was estimated after the trial metric was added."""
    monkeypatch.setitem(METRICS, ROW.name, ROW)
    monkeypatch.setattr(estimators, "_ESTIMATORS", dict(estimators._ESTIMATORS))

    @estimators.estimates(ROW.name)
    def _trial_share(before, after, intervals):
        return intervals.estimate(ROW.name, 0.25, intervals.bounded_mean(np.full(40, 0.25)), 40, method="trial")

    both = (SimpleNamespace(answers=answers()) for _ in range(2))
    return Comparison(
        candidate="nf4",
        prompt_set="boolq",
        n_prompts=40,
        estimates=tuple(prompt_estimates(*both, IntervalSettings(draws=50))),
        identical=False,
        reference_provenance=ANY,
        candidate_provenance=ANY,
        histograms={},
    )


@pytest.fixture
def verdict(comparison):
    """The verdict on the trial metric: it is beyond its limit."""
    return judge(comparison, ROW.name, load_profile("default@2").with_limits([(ROW.name, 0.01)]))


def test_it_is_judged_and_asserted(comparison, verdict):
    """A limit for it can be given, and it has an assertion."""
    assert verdict.status == "failed"
    assert pytest_quantcheck.assert_trial_share(comparison, limit=0.99).status == "passed"
    assert pytest_quantcheck.assert_trial_share.__doc__.startswith(
        "Fail when the trial share is above its limit: share"
    )


@pytest.mark.usefixtures("comparison")
def test_reference_and_type_checkers_have_it():
    """`python -m tests.docs.reference` writes it into the reference and into the stub."""
    assert f"`{ROW.name}`" in reference.names()
    assert f"def assert_{ROW.name}(" in reference.stub()


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A run of pytest with all three: its directory, and what it printed."""
    place = tmp_path_factory.mktemp("additions")
    (place / "trial.py").write_text(TRIAL)
    shutil.copytree(builtin.DIRECTORY, place / "small", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    config = json.loads((place / "small" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "trial", "bits": 8}
    (place / "small" / "config.json").write_text(json.dumps(config))
    options = (
        "model=builtin",
        "candidate=small",
        "samples=24",
        "layers=2",
        "attribution-samples=6",
        "controls",
        "only",
    )
    command = [sys.executable, "-m", "pytest", "-p", "trial", *(f"--quantcheck-{option}" for option in options)]
    command += ["--quantcheck-fail=trial_share:0.001", "--quantcheck-report=report", "--junitxml=junit.xml"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(place), str(ROOT)))}
    done = subprocess.run(
        [*command, "-k", "small or trial"], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    return place, done.stdout


@pytest.mark.ci
def test_metric_is_everywhere(gated):
    """It is judged, and stands in the terminal, report.json, the page and JUnit."""
    pytest.importorskip("matplotlib")
    place, said = gated
    assert "trial share of small on builtin is above its limit" in said
    report = json.loads((place / "report" / "report.json").read_text())
    (verdict,) = (one for one in report["verdicts"] if one["metric"] == "trial_share")
    assert verdict["status"] == "failed"
    assert "share tried" in (place / "report" / "report.html").read_text()
    found = ET.parse(place / "junit.xml").getroot().iter("property")
    assert ("quantcheck_metric", "trial_share") in [(one.get("name"), one.get("value")) for one in found]


@pytest.mark.ci
def test_format_is_everywhere(gated):
    """Its checkpoint is recognised, loaded, differentiated and described."""
    place, said = gated
    report = json.loads((place / "report" / "report.json").read_text())
    (comparison,) = report["comparisons"]
    where = comparison["candidate_provenance"]
    assert (where["format"], where["gradient_path"]) == ("trial 8 bit", "float32 + trial dequantized")
    assert where["module_types"]["TrialLinear"] > 0
    (overlap,) = (one for one in comparison["estimates"] if one["metric"] == "salient_overlap")
    assert overlap["value"] is not None
    assert "small on builtin: 24 prompts" in said
    assert "trial 8 bit" in (place / "report" / "report.html").read_text()


@pytest.mark.ci
def test_control_is_everywhere(gated):
    """It is made, judged, and stands in the terminal, the certificate, the page and JUnit."""
    place, said = gated
    assert "trial-control" in said
    certificate = json.loads((place / "report" / "certificate.json").read_text())
    (control,) = certificate["controls"]
    assert (control["control"], control["outcome"]) == ("trial-control", "passed")
    assert control["done"] == "every logit has the other sign"
    assert "trial-control" in (place / "report" / "report.html").read_text()
    names = [case.get("name") for case in ET.parse(place / "junit.xml").getroot().iter("testcase")]
    assert "test_control[trial-control-builtin]" in names


@pytest.mark.ci
def test_reference_lists_all_three(tmp_path):
    """The generated pages follow from the rows."""
    (tmp_path / "trial.py").write_text(TRIAL)
    script = "import trial; from tests.docs import reference; print(reference.names(), reference.formats())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert all(name in said for name in ("`trial_share`", "`trial-control`", "`trial`"))

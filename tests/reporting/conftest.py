"""Records as a run on a 30-block model makes them, written by hand."""

from types import SimpleNamespace

import msgspec
import pytest

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Comparison, Estimate, Verdict
from tests.provenance import ANY

LIMITS = {
    "accuracy_drop": 0.05,
    "confidence_drift": 0.05,
    "ace_drift": 0.05,
    "kl_divergence": 0.1,
    "flip_rate": 0.1,
    "dead_neuron_delta": 0.01,
    "dead_neuron_churn": 0.02,
    "faint_neuron_churn": 0.02,
    "salient_overlap": 0.5,
    "redundancy_change": 0.02,
}
NOT_CONVERGED = "the reference's attribution does not converge there"


def estimate(metric="ace_drift", value=0.0731, low=0.0512, high=0.096, **fields):
    """An estimate; fields that are not given are those of a bootstrap over 512 prompts."""
    fields = {"confidence": 0.95, "n_prompts": 512, "method": "paired bootstrap, 10000 draws", **fields}
    return Estimate(metric=metric, value=value, low=low, high=high, **fields)


def unmeasured(metric, reason, **fields):
    """An estimate without a value."""
    return estimate(metric, None, None, None, reason=reason, **fields)


def verdict(found=None, status="failed", candidate="nf4", **fields):
    """A verdict on an estimate by default@1; acceptable when it passed, else with a warning if at all."""
    found = found or estimate()
    fields = {
        "acceptable": status == "passed",
        "warning": fields.get("acceptable", False) and status != "passed",
        "prompt_set": "boolq",
        "limit": LIMITS[found.metric],
        "direction": METRICS[found.metric].direction,
        "limit_source": "default@1",
        "profile": "default@1",
        **fields,
    }
    return Verdict(metric=found.metric, candidate=candidate, status=status, estimate=found, **fields)


def provenance(bits):
    """Where a measurement of SmolLM2 on BoolQ comes from."""
    nf4 = bits == "nf4"
    return msgspec.structs.replace(
        ANY,
        model="SmolLM2-135M-Instruct",
        bits=bits,
        content_hash="8a" * 32,
        dtype="bfloat16",
        module_types={"Linear4bit" if nf4 else "Linear": 210, "Embedding": 1},
        quantization={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if nf4 else None,
        gradient_path="dequantized" if nf4 else "native",
        n_layers=30,
        configuration={"config.rms_norm_eps": "1e-05", "tokenizer.vocabulary": "17" * 32},
        prompt_hash="c0" * 32,
        template="Respond with True or False only.\n{prompt}\nAnswer:",
        layers=(0, 14, 29),
        redundancy_neurons=1536,
        libraries={"torch": "2.13.0", "transformers": "5.23.0"},
    )


def comparison(*estimates, candidate="nf4", notes=()):
    """A comparison on 512 BoolQ prompts that found these estimates."""
    return Comparison(
        candidate=candidate,
        prompt_set="boolq",
        n_prompts=512,
        estimates=estimates,
        identical=False,
        reference_provenance=provenance("bf16"),
        candidate_provenance=provenance(candidate),
        histograms={layer: {"reference": tuple(range(10)), "candidate": tuple(range(10))} for layer in (0, 14, 29)},
        notes=notes,
    )


def damaged_run():
    """Comparison and verdicts of an NF4 candidate in all states that a metric can be in."""
    overlap = {"n_prompts": 64}
    found = {
        "accuracy_drop": [estimate("accuracy_drop", -0.1211, -0.1582, -0.084, reference=0.502, candidate=0.6231)],
        "confidence_drift": [estimate("confidence_drift", 0.0412, 0.0301, 0.0523)],
        "ace_drift": [estimate("ace_drift", 0.0731, 0.0512, 0.096, reference=0.217, candidate=0.2901)],
        "kl_divergence": [estimate("kl_divergence", 0.1902, 0.1702, 0.2113)],
        "flip_rate": [estimate("flip_rate", 0.3418, 0.3008, 0.3828)],
        "dead_neuron_delta": [estimate("dead_neuron_delta", 0.0, 0.0, 0.0, layer=layer) for layer in (0, 14, 29)],
        "dead_neuron_churn": [
            unmeasured("dead_neuron_churn", "all neurons are constant", layer=layer) for layer in (0, 14, 29)
        ],
        "salient_overlap": [
            unmeasured("salient_overlap", NOT_CONVERGED, layer=0, applicable=False, **overlap),
            estimate("salient_overlap", 0.5211, 0.4402, 0.6013, layer=14, **overlap),
            estimate("salient_overlap", 0.8, 0.7702, 0.8299, layer=29, **overlap),
        ],
        "redundancy_change": [
            estimate("redundancy_change", 0.0231, 0.0229, 0.0234, layer=0, method="grouped jackknife"),
            estimate("redundancy_change", 0.0653, 0.0642, 0.0664, layer=14, method="grouped jackknife"),
            estimate("redundancy_change", 0.00005, 0.00004, 0.00006, layer=29, method="grouped jackknife"),
        ],
    }
    verdicts = [
        verdict(found["accuracy_drop"][0], "passed"),
        verdict(found["confidence_drift"][0], "inconclusive", acceptable=True, warning=True, prompts_needed=2100),
        verdict(found["ace_drift"][0]),
        verdict(found["kl_divergence"][0]),
        verdict(found["flip_rate"][0]),
        verdict(found["dead_neuron_churn"][0], "unmeasured"),
        verdict(found["salient_overlap"][1], "inconclusive", prompts_needed=900),
        verdict(found["redundancy_change"][1]),
    ]
    return verdicts, comparison(*(one for many in found.values() for one in many), notes=("another torch: 2.12.0",))


def sound_run():
    """Comparison and verdicts of an int8 candidate that passes everything."""
    found = [estimate(metric, 0.0051, 0.0012, 0.0098) for metric in LIMITS if not METRICS[metric].layered]
    found += [estimate(metric, 0.9, 0.87, 0.93, layer=14) for metric in ("salient_overlap",)]
    return [verdict(one, "passed", "int8") for one in found], comparison(*found, candidate="int8")


@pytest.fixture
def make():
    """The makers of records above."""
    return SimpleNamespace(
        estimate=estimate,
        unmeasured=unmeasured,
        verdict=verdict,
        comparison=comparison,
        damaged_run=damaged_run,
        sound_run=sound_run,
        replace=msgspec.structs.replace,
    )

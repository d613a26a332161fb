"""Comparisons of controls, written by hand."""

from types import SimpleNamespace

import msgspec
import pytest

from pytest_quantcheck.records import Comparison, Estimate
from tests.provenance import ANY

PROVENANCE = msgspec.structs.replace(
    ANY,
    gradient_path="native",
    template="raw",
    redundancy_neurons=128,
    libraries={"torch": "2.13.0", "transformers": "5.23.0"},
)


def estimate(metric, value, low=None, high=None, **fields):
    """An estimate from 600 prompts; the interval is the value alone if none is given."""
    low, high = (value if end is None else end for end in (low, high))
    fields = {"confidence": 0.95, "n_prompts": 600, "method": "bootstrap"} | fields
    return Estimate(metric=metric, value=value, low=low, high=high, **fields)


def comparison(candidate, *estimates, prompt_set="boolq"):
    """What a control showed."""
    return Comparison(
        candidate=candidate,
        prompt_set=prompt_set,
        n_prompts=600,
        estimates=estimates,
        identical=False,
        reference_provenance=PROVENANCE,
        candidate_provenance=PROVENANCE,
        histograms={},
    )


@pytest.fixture
def make():
    """The makers of records above."""
    return SimpleNamespace(estimate=estimate, comparison=comparison)

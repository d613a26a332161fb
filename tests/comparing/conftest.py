"""Real measurements to compare: the built-in model, two quantizations of it, and one damaged by hand."""

import copy
import dataclasses

import numpy as np
import pytest

from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts

BUILTIN = Source("builtin", dtype="fp32")
PLAN = Plan(samples=12)


@pytest.fixture(scope="session")
def prompts():
    """Sixty prompts; the first twelve are attributed."""
    return read_prompts("builtin", samples=60)


@pytest.fixture(scope="session")
def models():
    """The models by name; `damaged` has 40 dead neurons in layer 2 and a noisy layer 5."""
    with load(BUILTIN) as plain, load(BUILTIN, "int8") as int8, load(BUILTIN, "nf4") as nf4:
        yield {"reference": plain, "int8": int8, "nf4": nf4, "damaged": damage(plain)}


def damage(loaded):
    """A copy with the gate rows of 40 neurons of layer 2 zeroed, and every second one of layer 5 halved."""
    model = copy.deepcopy(loaded.model)
    blocks = model.model.layers
    blocks[2].mlp.gate_proj.weight.data[7:47] = 0
    blocks[5].mlp.gate_proj.weight.data[::2] *= 0.5
    return dataclasses.replace(loaded, model=model, neurons=find_neurons(model), bits="nf4")


@pytest.fixture(scope="session")
def reference(models, prompts):
    """What the model does at full precision."""
    return measure(models["reference"], prompts, PLAN, model="builtin")


@pytest.fixture(scope="session")
def measured(models, prompts, reference):
    """What each candidate does, by name."""
    names = ("int8", "nf4", "damaged")
    return {name: measure(models[name], prompts, PLAN, model="builtin", reference=reference) for name in names}


@pytest.fixture(scope="session", params=["int8", "nf4", "damaged"])
def candidate(request, measured):
    """One candidate's measurement after another."""
    return measured[request.param]


@pytest.fixture(scope="session")
def sampling():
    """Fewer draws than a gate makes: no test here depends on how fine the quantiles are."""
    return IntervalSettings(draws=400, seed=5)


@pytest.fixture(scope="session")
def comparison(reference, candidate, sampling):
    """The reference against that candidate."""
    return compare(reference, candidate, sampling)


@pytest.fixture(scope="session")
def changed():
    """A measurement with other answers, with other provenance, or with another record of one layer."""
    return change


def change(measurement, *, answers=None, provenance=None, activations=None, saliency=None):
    """Replace fields of a measurement's records; `activations` and `saliency` are (layer, fields)."""
    if answers:
        measurement = dataclasses.replace(measurement, answers=dataclasses.replace(measurement.answers, **answers))
    if provenance:
        found = type(measurement.provenance)(**{**as_dict(measurement.provenance), **provenance})
        measurement = dataclasses.replace(measurement, provenance=found)
    for name, asked in (("activations", activations), ("saliency", saliency)):
        if asked:
            layers = getattr(measurement, name)
            layers = {**layers, asked[0]: dataclasses.replace(layers[asked[0]], **asked[1])}
            measurement = dataclasses.replace(measurement, **{name: layers})
    return measurement


def as_dict(record):
    """A record's fields by name."""
    return {name: getattr(record, name) for name in record.__struct_fields__}


@pytest.fixture(scope="session")
def correlations_of():
    """Pearson's r (d, d) float64 from the sums of a record, by the textbook formula."""

    def r(sums):
        products = sums.comoment.astype(np.float64)
        scale = np.sqrt(np.diagonal(products))
        return products / np.outer(scale, scale)

    return r

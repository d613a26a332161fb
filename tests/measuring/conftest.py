"""The built-in model in float32, some of its prompts, and what it does on them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts

BUILTIN = Source("builtin", dtype="fp32")


@pytest.fixture(scope="session")
def prompts():
    """Forty prompts of 10 to 40 tokens: more than two of the groups that intervals are made of have three."""
    return read_prompts("builtin", samples=40)


@pytest.fixture(scope="session")
def loaded():
    """The model; a test must leave it as it was."""
    with load(BUILTIN) as model:
        yield model


@pytest.fixture
def damaged(loaded):
    """A model of one's own, to be damaged."""
    model = copy.deepcopy(loaded.model)
    return dataclasses.replace(loaded, model=model, neurons=find_neurons(model))


@pytest.fixture(scope="session")
def quantized():
    """The model at other bit-widths; each is loaded once."""
    with load(BUILTIN, "int8") as int8, load(BUILTIN, "nf4") as nf4:
        yield {"int8": int8, "nf4": nf4}


@pytest.fixture(scope="session")
def run():
    """Measures a model that is called `builtin`; keyword arguments that `Plan` knows go there."""
    known = {field.name for field in dataclasses.fields(Plan)}

    def call(loaded, prompts, **arguments):
        settings = {"samples": 12} | {name: arguments.pop(name) for name in known & arguments.keys()}
        return measure(loaded, prompts, Plan(**settings), model="builtin", **arguments)

    return call


@pytest.fixture(scope="session")
def reference(run, loaded, prompts):
    """What the model does at full precision, twelve prompts attributed."""
    return run(loaded, prompts)


@pytest.fixture(scope="session")
def candidates(run, quantized, prompts, reference):
    """What the quantized models do, by bit-width."""
    return {bits: run(model, prompts, reference=reference) for bits, model in quantized.items()}


@pytest.fixture(scope="session")
def logits():
    """Plain transformers code: the logits (prompts, vocabulary) float64 behind each prompt, one by one."""

    @torch.no_grad()
    def last(loaded, prompts):
        encoded = [loaded.tokenizer(text, return_tensors="pt")["input_ids"] for text in prompts.texts]
        return np.array([loaded.model(input_ids=ids).logits[0, -1].double().numpy() for ids in encoded])

    return last


@pytest.fixture(scope="session")
def same():
    """Whether two measurements hold the same provenance and, to the last bit, the same arrays and numbers."""

    def equal(one, two):
        pairs = zip(leaves(one), leaves(two), strict=True)
        return one.provenance == two.provenance and all(np.array_equal(*pair) for pair in pairs)

    return equal


def leaves(record):
    """Every array and number in a record, in order."""
    if dataclasses.is_dataclass(record):
        record = [getattr(record, field.name) for field in dataclasses.fields(record) if field.name != "provenance"]
    if isinstance(record, dict):
        record = [item for key in sorted(record) for item in (key, record[key])]
    if isinstance(record, list | tuple):
        return [leaf for item in record for leaf in leaves(item)]
    return [record]

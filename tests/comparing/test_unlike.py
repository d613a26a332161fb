"""What may not be compared, and what is the same."""

import dataclasses
import re

import msgspec
import numpy as np
import pytest

from pytest_quantcheck.comparing import IntervalSettings, compare, refuse_identical
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.options.attribution import AttributionMethod

OFF = AttributionMethod("off")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt_set", "boolq"),
        ("prompt_hash", "0" * 64),
        ("template", "chat:{prompt}"),
        ("readout", "choices"),
        ("layers", (0, 5)),
        ("redundancy_neurons", 256),
        ("n_layers", 7),
        ("width", 32),
        ("encoding_hash", "f" * 64),
        ("attribution", "off,samples=12"),
        ("seed", 1),
    ],
)
def test_measurements_made_otherwise_are_refused(reference, measured, changed, name, value):
    """The error names what differs, and says what it is in both."""
    other = changed(measured["nf4"], provenance={name: value})
    was = re.escape(f"{name} ({getattr(reference.provenance, name)!r} in the reference, {value!r} in the candidate)")
    with pytest.raises(ComparisonError, match=f"{was}: measure both alike"):
        compare(reference, other)


@pytest.mark.parametrize("name", ["tokenizer.vocabulary", "config.rms_norm_eps"])
def test_models_that_compute_otherwise_are_refused(reference, measured, changed, name):
    """Whatever was allowed where the candidate was measured."""
    before = reference.provenance.configuration[name]
    other = changed(measured["nf4"], provenance={"configuration": reference.provenance.configuration | {name: "1"}})
    with pytest.raises(ComparisonError, match=re.escape(name) + r" \(.* in the reference, '1' in the candidate\)"):
        compare(reference, other)
    assert before != "1"


def test_candidate_that_is_served_otherwise_is_compared_on_a_condition(reference, measured, changed):
    """It was allowed where it was measured."""
    before = reference.provenance.configuration
    other = changed(measured["nf4"], provenance={"configuration": before | {"generation_config.eos_token_id": "7"}})
    assert compare(reference, other).conditions == (
        "generation_config.eos_token_id 1 for the reference, 7 for the candidate",
    )


def test_every_difference_is_named(reference, measured, changed):
    """Three differences, three names."""
    other = changed(measured["nf4"], provenance={"readout": "choices", "seed": 4, "template": "chat:{prompt}"})
    with pytest.raises(ComparisonError, match=r"template \(.*\); readout \(.*\); seed \("):
        compare(reference, other)


@pytest.mark.parametrize(
    ("name", "value"), [("bits", "fp4"), ("model", "released"), ("batch_size", 4), ("device", "cuda:0")]
)
def test_what_may_differ_may(reference, measured, changed, name, value):
    """A released checkpoint, another machine, another batch size: compared, and what could matter is said."""
    found = compare(reference, changed(measured["nf4"], provenance={name: value}), IntervalSettings(draws=20))
    before = getattr(reference.provenance, name)
    said = {f"{name.replace('_', ' ')} {before} for the reference, {value} for the candidate"}
    assert set(found.conditions) == (said if name in {"batch_size", "device"} else set())


def test_other_libraries_are_noted(reference, measured, changed):
    """Other versions do not stop a comparison; they are said."""
    libraries = reference.provenance.libraries
    other = changed(measured["nf4"], provenance={"libraries": libraries | {"torch": "1.0"}})
    (said,) = compare(reference, other).conditions
    assert said == f"torch {libraries['torch']} for the reference, 1.0 for the candidate"


def test_library_of_one_models_format_is_no_difference(reference, measured, changed):
    """What only one of the two needs to be read, such as torchao, cannot differ between them."""
    libraries = reference.provenance.libraries
    other = changed(measured["nf4"], provenance={"libraries": libraries | {"torchao": "0.18.0"}})
    assert compare(reference, other, IntervalSettings(draws=20)).conditions == ()


def test_really_other_prompts_are_refused(models, prompts, reference):
    """The same prompt set with one gold answer changed is another prompt set."""
    golds = ("False" if prompts.golds[0] == "True" else "True", *prompts.golds[1:])
    other = measure(models["nf4"], dataclasses.replace(prompts, golds=golds), Plan(attribution=OFF), model="builtin")
    with pytest.raises(ComparisonError, match=r"differ in prompt_hash \(.*; attribution \(.*'off,samples=64'"):
        compare(reference, other)


def test_shards_of_other_prompts_are_refused(models, prompts):
    """Two halves of one prompt set have no prompt in common."""
    halves = [
        measure(models["reference"], prompts, Plan(attribution=OFF), model="builtin", index=list(range(start, 60, 2)))
        for start in (0, 1)
    ]
    with pytest.raises(ComparisonError, match="the prompts measured"):
        compare(*halves)


def test_a_candidate_measured_on_its_own_is_refused(models, prompts):
    """Its log-probabilities are of its own most probable tokens: divergence from the reference would be nonsense."""
    before, alone = (
        measure(models[name], prompts, Plan(attribution=OFF), model="builtin") for name in ("reference", "nf4")
    )
    with pytest.raises(ComparisonError, match="the candidate was measured without this reference"):
        compare(before, alone)


def test_other_neurons_are_refused(reference, measured, changed):
    """A candidate with fewer neurons in a layer cannot be compared neuron by neuron."""
    activations = measured["nf4"].activations[2]
    fewer = {"minimum": activations.minimum[:, :-4], "maximum": activations.maximum[:, :-4]}
    with pytest.raises(ComparisonError, match=r"the neurons of layer 2 \(384 in the reference, 380 in the candidate"):
        compare(reference, changed(measured["nf4"], activations=(2, fewer)))


def test_other_neurons_correlated_are_refused(reference, measured, changed):
    """As many neurons, but others: pair by pair they have nothing in common."""
    order = {"correlated": np.arange(1, 385)}
    with pytest.raises(ComparisonError, match="differ in which neurons of layer 2 are correlated: measure both alike"):
        compare(reference, changed(measured["nf4"], activations=(2, order)))


def test_compared_with_itself_it_is_identical(reference):
    """No difference anywhere: every change is exactly 0, every overlap 1, and `identical` says so.

    Prompts that were not measured may differ, so that counts have intervals with a width.
    """
    found = compare(reference, reference)
    assert found.identical
    for estimate in found.estimates:
        if estimate.applicable:
            assert estimate.value == (1 if estimate.metric == "salient_overlap" else 0)
            counted = (
                estimate.metric in {"accuracy_drop", "flip_rate", "salient_overlap"} or "neuron_" in estimate.metric
            )
            assert (estimate.low < estimate.high) == counted


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"bits": "int8", "content_hash": "ab"}, "last bit, so this candidate was never quantized"),
        ({"bits": "released", "content_hash": "cd"}, "last bit, so this candidate was never quantized"),
        ({"bits": "released", "content_hash": "ab"}, "last bit; .*, its reference, is the same file"),
    ],
)
def test_identical_candidate_is_told_why(reference, changed, origin, said):
    """Loaded without quantizing it, or the reference's own files given twice, as a GGUF file may be."""
    before = changed(reference, provenance={"content_hash": "ab"})
    found = compare(before, changed(reference, provenance=origin), IntervalSettings(draws=20))
    with pytest.raises(ComparisonError, match=said):
        refuse_identical(found)


def test_a_quantized_model_is_not_identical(comparison):
    """Nor is one that was damaged."""
    assert not comparison.identical


@pytest.mark.parametrize("what", ["confidence", "log_probs"])
def test_one_bit_in_the_answers_is_a_difference(reference, changed, what):
    """The smallest change of one number of one prompt."""
    values = getattr(reference.answers, what).copy()
    values.flat[7] = np.nextafter(values.flat[7], values.dtype.type(-np.inf))
    assert not compare(reference, changed(reference, answers={what: values}), IntervalSettings(draws=20)).identical


def test_one_bit_in_an_activation_is_a_difference(reference, changed):
    """The smallest change of one neuron's maximum."""
    maximum = reference.activations[5].maximum.copy()
    maximum[3, 9] = np.nextafter(maximum[3, 9], np.float32(np.inf))
    other = changed(reference, activations=(5, {"maximum": maximum}))
    assert not compare(reference, other, IntervalSettings(draws=20)).identical


def test_comparing_twice_gives_the_same_bits(reference, candidate):
    """The same measurements and the same seed give the same record, to the last bit of every number."""
    once, twice = (msgspec.json.encode(compare(reference, candidate, IntervalSettings(seed=3))) for _ in range(2))
    assert once == twice


def test_another_seed_gives_other_draws(reference, measured):
    """What is drawn depends on the seed, and what is measured does not."""
    one, other = (compare(reference, measured["nf4"], IntervalSettings(draws=50, seed=seed)) for seed in (0, 1))
    assert [e.value for e in one.estimates] == [e.value for e in other.estimates]
    assert one.of("kl_divergence")[0].high != other.of("kl_divergence")[0].high

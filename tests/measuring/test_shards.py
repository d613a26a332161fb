"""However the prompts are split, the measurement is the same."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.analyses.redundancy import correlation
from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.measuring.merging import merge, merge_in_order
from pytest_quantcheck.measuring.shards import count_for, cut
from pytest_quantcheck.options.attribution import AttributionMethod

NOISE = 3e-6
"""What left padding does to float32 activations (relative to their size, at least 1), probabilities and correlations.
Measured: 3e-7."""

SPLITS = {
    "one-in-three": [range(0, 40, 3), range(1, 40, 3), range(2, 40, 3)],
    "one-prompt-alone": [[39], [*range(39)]],
    "backwards": [[*range(39, 24, -1)], [*range(24, -1, -1)]],
}


LAYERS = (2, 5)
"""Those where the model's attributions converge."""


@pytest.fixture(scope="module")
def whole(run, loaded, prompts):
    """The measurement of all prompts in batches of sixteen."""
    return run(loaded, prompts, layers=LAYERS)


def assert_same(obtained, expected):
    """Say that two measurements of the same model agree to its numeric noise."""
    assert_same_answers(obtained.answers, expected.answers)
    assert obtained.activations.keys() == expected.activations.keys()
    for layer, activations in expected.activations.items():
        assert_same_activations(obtained.activations[layer], activations)
    assert obtained.saliency.keys() == expected.saliency.keys()
    for layer, saliency in expected.saliency.items():
        assert_same_saliency(obtained.saliency[layer], saliency)


def assert_same_answers(obtained, expected):
    """The same tokens, right or wrong, with the same probabilities."""
    for name in ("index", "token", "correct"):
        assert np.array_equal(getattr(obtained, name), getattr(expected, name)), name
    assert obtained.exact == expected.exact
    np.testing.assert_allclose(obtained.confidence, expected.confidence, rtol=0, atol=NOISE)
    np.testing.assert_allclose(by_token(obtained), by_token(expected), rtol=0, atol=NOISE)


def by_token(answers):
    """Probabilities in the order of the vocabulary: near ties may be kept in another order."""
    return np.take_along_axis(np.exp(answers.log_probs), np.argsort(answers.support, axis=1), axis=1)


def assert_same_activations(obtained, expected):
    """The same extremes in each group, and the same correlations."""
    assert np.array_equal(obtained.sample, expected.sample)
    np.testing.assert_allclose(obtained.minimum, expected.minimum, rtol=NOISE, atol=NOISE)
    np.testing.assert_allclose(obtained.maximum, expected.maximum, rtol=NOISE, atol=NOISE)
    pairs = zip((obtained.correlations, *obtained.groups), (expected.correlations, *expected.groups), strict=True)
    for one, two in pairs:
        assert one.count == two.count
        np.testing.assert_allclose(correlation(one)[0], correlation(two)[0], rtol=0, atol=NOISE)


def assert_same_saliency(obtained, expected):
    """The same sets of salient neurons, as complete."""
    for name in ("index", "target", "salient", "converged"):
        assert np.array_equal(getattr(obtained, name), getattr(expected, name)), name
    np.testing.assert_allclose(obtained.error, expected.error, rtol=0, atol=1e-3)  # 1e-4 nats of noise over 0.1


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_batches_do_not_change_a_measurement(run, loaded, prompts, whole, batch_size):
    """Batches of one, of seven or of all prompts give what batches of sixteen give."""
    assert_same(run(loaded, prompts, layers=LAYERS, batch_size=batch_size), whole)


def test_batches_move_int8_by_no_more_than_its_rounding(run, quantized, prompts, candidates):
    """LLM.int8() rounds activations to 1/127: noise of a last bit now and then moves one by a whole step."""
    step = 1 / 127
    obtained = run(quantized["int8"], prompts, batch_size=7, attribution=AttributionMethod("off"))
    moved = np.abs(obtained.answers.confidence - candidates["int8"].answers.confidence)
    assert moved.max() < 2 * step  # measured: 0.007
    for layer, activations in candidates["int8"].activations.items():
        moved = np.abs(obtained.activations[layer].maximum - activations.maximum)
        assert moved.mean() < step * np.abs(activations.maximum).mean()  # one alone may move by several steps


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    shard_size=st.integers(1, 60),
)
def test_every_batch_is_in_one_shard(sizes, shard_size):
    """Whole, in order, and no shard has more than one batch more than another."""
    batches = [[number] * size for number, size in enumerate(sizes)]
    count = count_for(batches, shard_size)
    shards = cut(batches, count)
    assert sorted(batch for shard in shards for batch in shard) == batches
    assert all(list(shard) == sorted(shard) for shard in shards)
    assert len(shards) == count == min(len(batches), math.ceil(sum(sizes) / shard_size))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard_size", [4, 12, 39])
def test_cutting_into_shards_does_not_change_a_measurement(run, loaded, prompts, whole, shard_size):
    """The batches are the same, and so are answers and extremes, to the last bit; correlations to their rounding."""
    found = run(loaded, prompts, layers=LAYERS, batch_size=4, shard_size=shard_size)
    alone = run(loaded, prompts, layers=LAYERS, batch_size=4)
    for name in ("token", "confidence", "support", "log_probs", "rest"):
        assert np.array_equal(getattr(found.answers, name), getattr(alone.answers, name)), name
    for layer in LAYERS:
        assert np.array_equal(found.activations[layer].minimum, alone.activations[layer].minimum)
        assert np.array_equal(found.activations[layer].maximum, alone.activations[layer].maximum)
    assert_same(found, whole)


def test_shards_measured_one_by_one_are_those_of_a_whole_run(run, loaded, prompts, same):
    """Each alone, by its number; merged, they are what one run of as many shards measures, to the last bit."""
    plan = {"layers": LAYERS, "batch_size": 4}
    alone = [run(loaded, prompts, shard=(number, 3), **plan) for number in (1, 2, 3)]
    assert [one.provenance.shard for one in alone] == [(1, 3), (2, 3), (3, 3)]
    assert same(merge_in_order(alone), run(loaded, prompts, shard_size=14, **plan))


def test_more_shards_than_batches_are_refused(run, loaded, prompts):
    """A batch is in one shard."""
    with pytest.raises(
        MeasurementError, match=r"at most 3 shards of builtin, got 4: its 40 inputs are 3 batches of 16"
    ):
        run(loaded, prompts, shard=(1, 4))


@pytest.mark.parametrize("shards", SPLITS.values(), ids=SPLITS)
def test_shards_merge_to_the_whole(run, loaded, prompts, whole, shards):
    """Measured one by one and merged, shards give the measurement of all prompts, in any order."""
    parts = [run(loaded, prompts, layers=LAYERS, index=list(shard)) for shard in shards]
    assert_same(merge(parts[::-1]), whole)


def test_shards_give_up_a_layer_like_the_whole(run, loaded, prompts, reference):
    """At layer 0 attributions do not converge: merged, the same few prompts stand there as when measured at once."""
    parts = [run(loaded, prompts, layers=(0,), index=list(shard)) for shard in SPLITS["one-in-three"]]
    obtained, expected = merge(parts).saliency[0], reference.saliency[0]
    assert obtained.index.tolist() == expected.index.tolist() == list(range(5))
    assert np.array_equal(obtained.target, expected.target)
    assert np.array_equal(obtained.converged, expected.converged)


def test_a_shard_of_a_candidate_meets_its_own_prompts(run, quantized, prompts, reference, candidates):
    """Against the whole reference or against its shard of it, a candidate's shard compares the same tokens."""
    shards = [list(range(0, 40, 2)), list(range(1, 40, 2))]
    parts = [run(quantized["nf4"], prompts, index=shard, reference=reference) for shard in shards]
    assert np.array_equal(merge(parts).answers.support, reference.answers.support)
    assert_same(merge(parts), candidates["nf4"])


def test_a_candidate_may_be_measured_against_a_shard(run, loaded, quantized, prompts, reference):
    """The reference's tokens and answers are found by position in the prompt set, not by row of the shard."""
    shard = list(range(1, 40, 2))
    part = run(loaded, prompts, layers=LAYERS, index=shard)
    found = run(quantized["nf4"], prompts, layers=LAYERS, index=shard, reference=part)
    assert np.array_equal(found.answers.support, part.answers.support)
    assert np.array_equal(found.saliency[5].target, reference.answers.token[1:12:2])


def test_a_reference_that_lacks_a_prompt_is_refused(run, loaded, quantized, prompts):
    """A candidate is not measured on prompts that its reference has not seen."""
    part = run(loaded, prompts, layers=LAYERS, index=[0, 1, 2])
    with pytest.raises(MeasurementError, match=r"not measured on 1 of 2 prompts \(the first is at position 9\)"):
        run(quantized["nf4"], prompts, index=[2, 9], reference=part)


@pytest.mark.parametrize("index", [[], [3, 3], [40], [-1]], ids=["none", "twice", "beyond", "negative"])
def test_positions_that_are_no_shard_are_refused(run, loaded, prompts, index):
    """A shard holds at least one prompt, each once, all of the prompt set."""
    with pytest.raises(ValueError, match="Expected different positions from 0 to 39"):
        run(loaded, prompts, index=index)

"""Shards merge to the whole, however the prompts are split and whichever are merged first."""

import dataclasses
from itertools import permutations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.dead_neurons import new_extremes, update_extremes
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.measuring.merging import merge
from pytest_quantcheck.records import Activations, Answers, Measurement, Saliency
from tests.provenance import ANY

PROMPTS, ATTRIBUTED, NEURONS, GROUPS, VOCABULARY, TOP, LAYERS = 14, 6, 7, 4, 30, 5, (0, 5)
GOLDS = tuple(str(prompt % 3) for prompt in range(PROMPTS))
SAMPLE = np.array([1, 2, 5])

EPS = float(np.finfo(np.float32).eps)

PROVENANCE = msgspec.structs.replace(
    ANY,
    bits="int8",
    content_hash="1234",
    layers=LAYERS,
    redundancy_neurons=NEURONS,
    seed=7,
    batch_size=8,
    libraries={"torch": "2.13.0"},
)


def prompt_activations(prompt, layer):
    """Return one prompt's activations (tokens, neurons): neuron 0 is constant, neuron 1 far from zero."""
    generator = np.random.default_rng([prompt, layer])
    values = generator.normal(size=(int(generator.integers(1, 9)), NEURONS)).astype(np.float32)
    values[:, 0] = 0.25
    values[:, 1] += 100
    values[:, 2] += values[:, 3]
    return torch.from_numpy(values)


def measure(index, *, batch_size=8):
    """Measure a shard as a real one is: batches of activations through the accumulators, answers from logits."""
    index = sorted(index)
    return Measurement(
        provenance=PROVENANCE,
        answers=measure_answers(index),
        activations={layer: measure_activations(index, layer, batch_size) for layer in LAYERS},
        saliency=measure_saliency([prompt for prompt in index if prompt < ATTRIBUTED]),
        golds=GOLDS,
        available=2 * PROMPTS,
        texts={token: f" {token}" for token in measure_answers(index).token.tolist()},
    )


def measure_answers(index):
    """Answer each prompt with logits of its own."""
    rows = [np.random.default_rng(prompt).normal(size=VOCABULARY) for prompt in index]
    logits = torch.from_numpy(np.array(rows).reshape(-1, VOCABULARY))
    log_probs, support = logits.log_softmax(-1).topk(TOP)
    confidence, token = logits.softmax(-1).max(-1)
    return Answers(
        index=np.array(index, dtype=np.int64),
        token=token.numpy(),
        confidence=confidence.numpy(),
        correct=token.numpy() % 2 == 0,
        support=support.int().numpy(),
        log_probs=log_probs.float().numpy(),
        rest=torch.log1p(-log_probs.exp().sum(-1)).float().numpy(),
        exact=False,
    )


def measure_activations(index, layer, batch_size):
    """Stream the activations of a shard, batch by batch."""
    minimum, maximum = new_extremes(GROUPS, NEURONS)
    whole, parts = CorrelationSums(NEURONS), [CorrelationSums(len(SAMPLE)) for _ in range(GROUPS)]
    for start in range(0, len(index), batch_size):
        batch = {prompt: prompt_activations(prompt, layer) for prompt in index[start : start + batch_size]}
        seen = torch.cat(list(batch.values()))
        groups = torch.cat([torch.full((len(values),), prompt % GROUPS) for prompt, values in batch.items()])
        update_extremes(minimum, maximum, seen, groups)
        whole.update(seen)
        for prompt, values in batch.items():
            parts[prompt % GROUPS].update(values[:, SAMPLE])
    return Activations(
        minimum=minimum.numpy(),
        maximum=maximum.numpy(),
        correlated=np.arange(NEURONS),
        correlations=whole.result(),
        sample=SAMPLE,
        groups=tuple(part.result() for part in parts),
        rectified=False,
    )


def measure_saliency(index):
    """Attribute a shard's prompts; a shard without any has no saliency at all."""
    return {layer: measure_layer_saliency(index, layer) for layer in LAYERS if index}


def measure_layer_saliency(index, layer):
    """Score the neurons for each prompt and keep those near the best."""
    scores = np.array([np.random.default_rng([prompt, layer, 1]).random(NEURONS) for prompt in index])
    error = scores[:, 0].astype(np.float32) / 10
    return Saliency(
        index=np.array(index, dtype=np.int64),
        target=np.array(index, dtype=np.int64) + 100,
        salient=scores / scores.max(1, keepdims=True) > 0.7,
        error=error,
        nodes=np.where(error < 0.05, 4, 8).astype(np.int32),
        converged=error < 0.05,
    )


WHOLE = measure(range(PROMPTS))


def assert_same_arrays(obtained, expected):
    """Compare every array of two records, bit for bit."""
    for name, value in vars(expected).items():
        assert np.asarray(getattr(obtained, name)).dtype == np.asarray(value).dtype, name
        np.testing.assert_array_equal(getattr(obtained, name), value, err_msg=name, strict=True)


def assert_close_sums(obtained, expected):
    """Compare correlation sums.

    Each token's products are rounded to float32 when they are added, here as there: an entry is off by at most
    tokens * eps * the sum of absolute products, which Cauchy and Schwarz bound by the deviations of both neurons.
    Deviations are rounded to float32 before their mean is taken: a mean is off by eps of the largest at most, and
    by what float64 loses of the mean itself.
    """
    assert obtained.count == expected.count
    assert (obtained.mean.dtype, obtained.comoment.dtype) == (np.float64, np.float32)
    deviation = np.sqrt(np.diagonal(expected.comoment).astype(np.float64))
    assert (np.abs(obtained.mean - expected.mean) <= EPS * deviation + EPS**2 * np.abs(expected.mean)).all()
    limit = expected.count * EPS * np.outer(deviation, deviation)
    assert (np.abs(obtained.comoment.astype(np.float64) - expected.comoment) <= limit + EPS**2).all()


def assert_same_measurement(obtained, expected):
    """Compare all: to rounding what is summed, bit for bit what is not."""
    assert obtained.provenance == expected.provenance
    assert_same_arrays(obtained.answers, expected.answers)
    assert obtained.activations.keys() == expected.activations.keys()
    for layer, whole in expected.activations.items():
        merged = obtained.activations[layer]
        for name in ("minimum", "maximum", "correlated", "sample"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name), strict=True)
        assert merged.rectified == whole.rectified
        assert_close_sums(merged.correlations, whole.correlations)
        for part, expected_part in zip(merged.groups, whole.groups, strict=True):
            assert_close_sums(part, expected_part)
    assert obtained.texts == expected.texts
    assert obtained.saliency.keys() == expected.saliency.keys()
    for layer, attributed in expected.saliency.items():
        assert_same_arrays(obtained.saliency[layer], attributed)


@st.composite
def splits(draw):
    """Draw shards of the prompts in random order, one of them empty, each with a size of its batches."""
    shard_of = draw(st.lists(st.integers(0, 4), min_size=PROMPTS, max_size=PROMPTS))
    shards = [[prompt for prompt in range(PROMPTS) if shard_of[prompt] == shard] for shard in set(shard_of)]
    sizes = [8, *(draw(st.integers(1, 8)) for _ in shards)]
    return draw(st.permutations(list(zip([*shards, []], sizes, strict=True))))


def measure_each(split):
    """Measure every shard of a split."""
    return [measure(index, batch_size=batch_size) for index, batch_size in split]


@settings(max_examples=25)
@given(splits())
def test_shards_merge_to_the_whole(split):
    """Any split into shards, measured in any batches, merges to the direct measurement."""
    assert_same_measurement(merge(measure_each(split)), WHOLE)


@settings(max_examples=25)
@given(splits(), st.data())
def test_shards_may_be_merged_in_steps(split, data):
    """Merging some shards first, then what they gave with the rest, gives the whole as well."""
    parts, first = measure_each(split), data.draw(st.integers(1, len(split)))
    assert_same_measurement(merge([merge(parts[:first]), *parts[first:]]), WHOLE)


@pytest.mark.parametrize("split", [*permutations([range(5), range(5, 9), range(9, PROMPTS)])], ids=str)
def test_order_of_shards_changes_no_bit(split):
    """Shards in another order give the same correlation sums, to the last bit."""
    expected = merge([measure(index) for index in sorted(split, key=min)])
    obtained = merge([measure(index) for index in split])
    for layer in LAYERS:
        assert_same_arrays(obtained.activations[layer].correlations, expected.activations[layer].correlations)


def test_one_shard_is_the_whole():
    """A single part merges to itself."""
    assert_same_measurement(merge([WHOLE]), WHOLE)


def test_parts_are_left_as_they_were():
    """Merging changes none of its parts."""
    part = measure(range(4))
    merge([part, measure(range(4, PROMPTS))])
    assert_same_measurement(part, measure(range(4)))


def test_nothing_is_no_measurement():
    """No parts are a mistake of the caller."""
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def refusal(*parts):
    """Return what merging says."""
    with pytest.raises(ComparisonError) as caught:
        merge(parts)
    return str(caught.value)


def two_shards():
    """Return two measurements that fit together."""
    return measure(range(6)), measure(range(6, PROMPTS))


def test_every_difference_of_origin_is_named():
    """Shards of two settings are refused with each field that differs and both its values."""
    one, other = two_shards()
    provenance = msgspec.structs.replace(other.provenance, seed=8, libraries={"torch": "2.12.0"}, batch_size=1)
    message = refusal(one, dataclasses.replace(other, provenance=provenance))
    assert "seed 7 and 8" in message
    assert "libraries.torch '2.13.0' and '2.12.0'" in message
    assert "batch_size 8 and 1" in message


def test_third_shard_is_checked_too():
    """A difference is found in whichever shard it is."""
    parts = [measure(range(start, start + 4)) for start in (0, 4, 8)]
    provenance = msgspec.structs.replace(PROVENANCE, device="cuda:0")
    assert "device 'cpu' and 'cuda:0'" in refusal(*parts[:2], dataclasses.replace(parts[2], provenance=provenance))


def test_prompt_in_two_shards_is_named():
    """A prompt that would count twice is refused by its position."""
    assert "got prompt 5 more than once" in refusal(measure(range(6)), measure(range(5, PROMPTS)))


def test_other_support_is_refused():
    """Distributions over another number of tokens do not fit together."""
    one, other = two_shards()
    answers = dataclasses.replace(
        other.answers, support=other.answers.support[:, 1:], log_probs=other.answers.log_probs[:, 1:]
    )
    assert "supporting tokens, got 5 and 4" in refusal(one, dataclasses.replace(other, answers=answers))


def test_exact_and_cut_distributions_are_refused():
    """What holds for the whole must hold for each shard."""
    one, other = two_shards()
    exact = dataclasses.replace(other.answers, exact=True)
    assert "answers.exact, got False and True" in refusal(one, dataclasses.replace(other, answers=exact))


def test_missing_layer_is_refused():
    """A shard without one of the layers is no shard of the same measurement."""
    one, other = two_shards()
    fewer = {0: other.activations[0]}
    assert "same layers, got [0, 5] and [0]" in refusal(one, dataclasses.replace(other, activations=fewer))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"correlated": SAMPLE}, "correlated neurons of layer 5, got [0, 1, 2, 3, 4, 5, ...] and [1, 2, 5]"),
        ({"sample": SAMPLE + 1}, "sample of neurons of layer 5, got [1, 2, 5] and [2, 3, 6]"),
        ({"rectified": True}, "activation function of layer 5, got False and True"),
        ({"minimum": np.zeros((3, NEURONS), np.float32)}, "groups and neurons of layer 5, got (4, 7) and (3, 7)"),
    ],
)
def test_layer_of_another_kind_is_refused(changes, expected):
    """Groups, followed neurons and activation function must be the same; the layer is named."""
    one, other = two_shards()
    layer = dataclasses.replace(other.activations[5], **changes)
    assert expected in refusal(one, dataclasses.replace(other, activations={**other.activations, 5: layer}))


def test_saliency_of_another_width_is_refused():
    """Salient sets of other neurons do not fit together; the layer is named."""
    one, other = measure(range(3)), measure(range(3, PROMPTS))
    layer = dataclasses.replace(other.saliency[5], salient=other.saliency[5].salient[:, 1:])
    broken = dataclasses.replace(other, saliency={**other.saliency, 5: layer})
    assert "number of neurons of layer 5, got 7 and 6" in refusal(one, broken)

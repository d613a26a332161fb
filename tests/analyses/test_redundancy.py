"""Correlations between neurons: streamed sums, merging, and the change between two models."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_quantcheck.analyses import correlation_sums
from pytest_quantcheck.analyses.correlation_sums import CorrelationSums, _add_gram, merge_sums, without
from pytest_quantcheck.analyses.redundancy import (
    correlation,
    correlation_change,
    correlation_histogram,
    defined,
    sampling_error,
    tail_mass,
    wasserstein,
)
from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.records import Correlations

fresh = settings(max_examples=40)
CLOSE = 1e-5
"""Promised distance of r from float64: float32 sums over a few thousand tokens stay within a tenth of it."""


@st.composite
def layers(draw, min_tokens=3):
    """Activations (tokens, neurons) of any dtype, neurons sharing a few causes, some constant; and batch ends."""
    tokens, neurons = draw(st.integers(min_tokens, 80)), draw(st.integers(2, 150))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = generator.normal(size=(tokens, 4)) @ generator.normal(size=(4, neurons))
    values += draw(st.sampled_from([0.01, 1.0])) * generator.normal(size=(tokens, neurons))
    values += draw(st.sampled_from([0.0, 30.0])) * generator.normal(size=neurons)
    values[:, generator.random(neurons) < draw(st.sampled_from([0.0, 0.3]))] = generator.normal()
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
    cuts = draw(st.lists(st.integers(0, tokens), max_size=5).map(sorted))
    return torch.from_numpy(values).to(dtype), [0, *cuts, tokens]


def sums(activations, cuts=None):
    """Stream the activations (tokens, neurons) through, batch by batch."""
    accumulator = CorrelationSums(activations.shape[1])
    for start, stop in pairwise(cuts or [0, len(activations)]):
        accumulator.update(activations[start:stop])
    return accumulator.result()


def exact(activations):
    """Pearson's r in float64, 0 where a neuron is constant, and which neurons are not."""
    values = activations.double().numpy()
    varies = np.ptp(values, axis=0) > 0
    matrix = np.zeros((len(varies), len(varies)))
    matrix[np.ix_(varies, varies)] = np.corrcoef(values[:, varies], rowvar=False)
    return matrix, varies


def exact_pairs(activations, varies):
    """Return r of the pairs i < j of varying neurons."""
    matrix = exact(activations)[0][np.ix_(varies, varies)]
    return matrix[np.triu_indices(len(matrix), 1)]


def normal(tokens, neurons, seed=0):
    """Independent standard normal activations in float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(tokens, neurons)))


@fresh
@given(layers())
def test_agrees_with_float64_numpy_however_the_tokens_are_batched(sample):
    """Any dtype, any batches, empty ones too: r is np.corrcoef's, constant neurons are found and have none."""
    activations, cuts = sample
    obtained, there = correlation(sums(activations, cuts))
    expected, varies = exact(activations)
    assert obtained.dtype == np.float32
    np.testing.assert_array_equal(there, varies)
    np.testing.assert_allclose(obtained, expected, atol=CLOSE)


@fresh
@given(layers())
def test_shards_merge_to_the_whole(sample):
    """The sums of disjoint tokens merge to those of all tokens, one-token and empty shards included."""
    activations, cuts = sample
    shards = [sums(activations[start:stop]) for start, stop in pairwise(cuts)]
    whole, merged = sums(activations), merge_sums(shards)
    assert merged.count == whole.count == len(activations)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-6, atol=1e-6)
    expected, varies = exact(activations)
    np.testing.assert_array_equal(defined(merged), varies)
    np.testing.assert_allclose(correlation(merged)[0], expected, atol=CLOSE)


@fresh
@given(layers(min_tokens=12))
def test_taking_a_part_away_leaves_the_others(sample):
    """A third of the tokens taken out of the sums leaves the sums of the other two thirds."""
    activations, _ = sample
    third = len(activations) // 3
    rest = without(sums(activations), sums(activations[:third]))
    expected, varies = exact(activations[third:])
    assert rest.count == len(activations) - third
    both = np.ix_(*[varies & defined(rest)] * 2)
    np.testing.assert_allclose(correlation(rest)[0][both], expected[both], atol=CLOSE)


@pytest.mark.parametrize("kind", ["spread", "scales", "drift", "outlier"])
@pytest.mark.parametrize(("batch", "neurons"), [(1, 40), (37, 40), (37, 193), (4096, 450)])
def test_hard_float32_activations(kind, batch, neurons):
    """Large mean with tiny variance, scales 24 decades apart, drifting means, one huge first token: all within 1e-5."""
    generator = np.random.default_rng(3)
    values = generator.normal(size=(3000, 3)) @ generator.normal(size=(3, neurons))
    values += generator.normal(size=(3000, neurons))
    if kind == "spread":
        values = values / values.std(axis=0) * 1e-2 + np.linspace(-1000, 1000, neurons)
    elif kind == "scales":
        values *= np.logspace(-12, 12, neurons)
    elif kind == "drift":
        values += np.linspace(0, 1000, 3000)[:, None] ** np.linspace(0, 1, neurons)
    else:
        values[0] += 1e4 * generator.normal(size=neurons)
    activations = torch.from_numpy(values.astype(np.float32))
    obtained, there = correlation(sums(activations, [*range(0, 3000, batch), 3000]))
    assert there.all()
    np.testing.assert_allclose(obtained, exact(activations)[0], atol=CLOSE)


@pytest.mark.parametrize("neurons", [1, 2, 192, 193, 400])
def test_small_products_behind_a_huge_one_are_not_lost(neurons):
    """The worst there is: each product a little less than half of float32's step at the first one's size."""
    rows = torch.full((1025, neurons), 2**-12.1)
    rows[0] = 1
    comoment = torch.zeros(neurons, neurons)
    _add_gram(comoment, rows)
    expected = rows.double().T @ rows.double()
    upper = torch.triu(torch.ones(neurons, neurons, dtype=torch.bool))
    lost = (expected - comoment)[upper].abs().max() / expected[0, 0]
    assert lost <= CLOSE / 2  # r inherits it twice: the pair's own, and half of either neuron's


def test_float64_activations_are_centred_before_they_are_rounded():
    """Deviations of a few float32 roundings of the mean keep their digits."""
    activations = 1e3 + 5e-4 * normal(500, 8)
    obtained, there = correlation(sums(activations))
    assert there.all()
    np.testing.assert_allclose(obtained, exact(activations)[0], atol=CLOSE)


@pytest.mark.parametrize("kind", ["as it comes", "large mean", "drift"])
def test_wide_layers_take_another_product_and_are_as_exact(monkeypatch, kind):
    """What is done from 4,096 neurons on agrees with float64 too, here with 300 neurons called wide."""
    monkeypatch.setattr(correlation_sums, "_WIDE", 300)
    generator = np.random.default_rng(5)
    values = generator.normal(size=(3000, 4)) @ generator.normal(size=(4, 300)) + generator.normal(size=(3000, 300))
    if kind == "large mean":
        values = values / values.std(axis=0) * 1e-2 + np.linspace(-1000, 1000, 300)
    elif kind == "drift":
        values += np.linspace(0, 1000, 3000)[:, None] ** np.linspace(0, 1, 300)
    activations = torch.from_numpy(values.astype(np.float32))
    obtained, there = correlation(sums(activations, [0, 700, 2500, 3000]))
    assert there.all()
    np.testing.assert_allclose(obtained, exact(activations)[0], atol=CLOSE)
    narrow = sums(activations[:, :299])  # the other product
    np.testing.assert_allclose(obtained[:299, :299], correlation(narrow)[0], atol=CLOSE)


def test_five_hundred_batches_stay_exact():
    """Rounding does not pile up over 256,000 tokens: r is within a fifth of the promise."""
    generator = np.random.default_rng(1)
    mixing = generator.normal(size=(4, 12))
    accumulator, batches = CorrelationSums(12), []
    for _ in range(500):
        batch = generator.normal(size=(512, 4)) @ mixing + 0.1 * generator.normal(size=(512, 12)) + 5
        batches.append(torch.from_numpy(batch.astype(np.float32)))
        accumulator.update(batches[-1])
    expected, _ = exact(torch.cat(batches))
    np.testing.assert_allclose(correlation(accumulator.result())[0], expected, atol=CLOSE / 5)


def test_a_beginning_unlike_the_rest_costs_nothing():
    """What is taken off later tokens is the mean of the first ones: far off, yet nothing is lost."""
    generator = np.random.default_rng(3)
    common = generator.normal(size=(3000, 1))
    tokens = (1e4 + 1e-1 * (common + generator.normal(size=(3000, 6)))).astype(np.float32)
    tokens[:1100] = generator.normal(size=(1100, 6))
    sums = CorrelationSums(6)
    for batch in np.array_split(tokens, 4):
        sums.update(torch.from_numpy(batch))
    obtained = sums.result()
    expected = np.cov(tokens.T.astype(np.float64), bias=True) * len(tokens)
    np.testing.assert_allclose(obtained.comoment, expected, rtol=1e-6)
    np.testing.assert_allclose(obtained.mean, tokens.mean(axis=0, dtype=np.float64), rtol=2**-23)  # of the distance


def test_the_order_of_the_tokens_does_not_matter():
    """A shuffle of the tokens changes r by float32 rounding."""
    activations = normal(4000, 30).float()
    shuffled = activations[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    np.testing.assert_allclose(correlation(sums(shuffled))[0], correlation(sums(activations))[0], atol=1e-6)


def test_sums_are_symmetric_beyond_one_tile():
    """The half that is not computed is the mirror image of the other, and the sums are those of NumPy."""
    activations = normal(50, 201)
    obtained = sums(activations)
    np.testing.assert_array_equal(obtained.comoment, obtained.comoment.T)
    centred = (activations - activations.mean(0)).numpy()
    np.testing.assert_allclose(obtained.comoment, centred.T @ centred, atol=1e-4)
    np.testing.assert_allclose(obtained.mean, activations.mean(0).numpy(), atol=1e-12)


def test_an_accumulator_starts_afresh_after_its_result():
    """A result is not changed by what comes later, and what comes later does not hold it."""
    accumulator = CorrelationSums(5)
    accumulator.update(normal(20, 5))
    first = accumulator.result()
    kept = first.comoment.copy()
    accumulator.update(normal(30, 5, seed=1))
    second = accumulator.result()
    np.testing.assert_array_equal(first.comoment, kept)
    np.testing.assert_array_equal(second.comoment, sums(normal(30, 5, seed=1)).comoment)
    assert (first.count, second.count) == (20, 30)


def test_updating_does_not_change_the_activations():
    """The model's tensors are read, not centred in place."""
    activations = normal(2000, 3).float()
    before = activations.clone()
    sums(activations)
    assert torch.equal(activations, before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_autograd_is_left_out(mode):
    """Activations that want gradients, in any grad mode, leave no graph, and the result can be had outside of it."""
    activations = normal(30, 4).float().requires_grad_()
    accumulator = CorrelationSums(4)
    with mode():
        accumulator.update(activations * 1)
    np.testing.assert_array_equal(accumulator.result().comoment, sums(activations.detach()).comoment)


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_token_or_one_defines_nothing(tokens):
    """Without two tokens every neuron is constant, and there is no pair to compare."""
    obtained = sums(normal(tokens, 4))
    assert obtained.count == tokens
    assert not defined(obtained).any()
    change = correlation_change(obtained, obtained)
    assert (change.mean, change.pairs, change.excluded) == (None, 0, 4)
    assert correlation_histogram(obtained).tolist() == [0] * 10


@pytest.mark.parametrize("constant", [0.0, 1.0, -1000.3, 1e6, 1e-3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_constant_neuron_is_constant_at_any_level(constant, dtype):
    """Rounding of means does not make a constant neuron vary, over many batches and after merging."""
    activations = torch.cat([normal(5000, 2), torch.full((5000, 1), constant)], dim=1).to(dtype)
    shards = [sums(activations[start::7]) for start in range(7)]
    for obtained in (sums(activations, [0, 1, 100, 2000, 5000]), merge_sums(shards)):
        assert defined(obtained).tolist() == [True, True, False]


@fresh
@given(layers(), st.integers(0, 2**32))
def test_change_is_the_mean_over_the_pairs_that_both_models_have(sample, seed):
    """The mean is over i < j of neurons varying in both; those constant in one alone are excluded and counted."""
    reference = sample[0]
    generator = np.random.default_rng(seed)
    noise = torch.from_numpy(generator.normal(size=reference.shape))
    spread = reference.double().max() - reference.double().min()  # exactly 0 where all are one constant
    candidate = (reference + noise * (generator.random() * spread)).to(reference.dtype)
    candidate[:, generator.random(reference.shape[1]) < 0.2] = 0.5
    varies = [exact(model)[1] for model in (reference, candidate)]
    both = varies[0] & varies[1]
    obtained = correlation_change(sums(reference), sums(candidate))
    moved = np.abs(exact_pairs(candidate, both) - exact_pairs(reference, both))
    assert obtained.pairs == len(moved)
    assert obtained.excluded == np.count_nonzero(~both)
    assert obtained.mean == (pytest.approx(moved.mean(), abs=CLOSE) if len(moved) else None)
    if both.sum() > 2:
        change = np.zeros((both.sum(), both.sum()))
        change[np.triu_indices(both.sum(), 1)] = moved
        of_each = (change + change.T).sum(axis=0) / (both.sum() - 1)
        assert obtained.spread == pytest.approx(of_each.std(ddof=1), abs=2 * CLOSE)


def test_a_model_has_not_moved_from_itself():
    """The change of a model against itself is exactly zero."""
    model = sums(normal(100, 130))
    assert correlation_change(model, model).mean == 0.0


def two_models(neurons, seed=4):
    """Sums of two models whose neurons moved by amounts of their own, some of them constant."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(500, 6)) @ generator.normal(size=(6, neurons))
    moved = values + generator.normal(size=values.shape) * generator.gamma(1, 2, size=neurons)
    moved[:, ::10] = 1
    return [sums(torch.from_numpy(model)) for model in (values, moved)]


def cut(correlations, neurons):
    """The sums of some neurons."""
    comoment = correlations.comoment[np.ix_(neurons, neurons)]
    return Correlations(correlations.count, correlations.mean[neurons], comoment)


@pytest.mark.parametrize("taken", [40, 150, 290])
def test_a_sample_of_neurons_is_unbiased_and_its_error_is_the_one_stated(taken):
    """Many samples: their changes average to that of all neurons, and scatter as each of them says."""
    models, generator = two_models(300), np.random.default_rng(0)
    found = []
    for _ in range(600):
        neurons = generator.permutation(300)[:taken]
        change = correlation_change(*(cut(model, neurons) for model in models))
        found.append((change.mean, sampling_error(change, taken, 300)))
    values, stated = np.array(found).T
    scatter = values.std(ddof=1)
    whole = correlation_change(*models).mean
    assert abs(values.mean() - whole) < 4 * scatter / 600**0.5
    # 600 draws know their scatter to 3 %; what single pairs add to the stated error is a few percent at 40 neurons
    assert 0.9 < np.sqrt((stated**2).mean()) / scatter < 1.15


def test_all_neurons_have_no_sampling_error():
    """Nothing is left out, nothing can be missed; two neurons have no spread to go by, and anything could be."""
    models = two_models(30)
    assert sampling_error(correlation_change(*models), 30, 30) == 0
    few = correlation_change(*(cut(model, np.array([1, 2])) for model in models))
    assert few.spread is None
    assert sampling_error(few, 2, 30) == 2


def test_sums_on_disk_are_read_tile_by_tile(tmp_path):
    """A memory-mapped reference gives the same change, histogram and all, and is never in memory whole."""
    models = two_models(1500)
    on_disk = []
    for name, model in zip(("reference", "candidate"), models, strict=True):
        np.save(tmp_path / name, model.comoment)
        on_disk.append(replace(model, comoment=np.load(tmp_path / f"{name}.npy", mmap_mode="r")))
    tracemalloc.start()
    change, histogram = correlation_change(*on_disk), correlation_histogram(on_disk[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(on_disk[0].comoment, np.memmap)
    assert change == correlation_change(*models)
    assert histogram.tolist() == correlation_histogram(models[0]).tolist()
    assert peak < models[0].comoment.nbytes / 3  # a few tiles of 64 rows


@fresh
@given(layers())
def test_histogram_counts_every_pair_once(sample):
    """Each pair is in its bin of abs(r); only pairs within float32 rounding of an edge may be in the next."""
    activations, _ = sample
    obtained = correlation_histogram(sums(activations))
    size = np.abs(exact_pairs(activations, exact(activations)[1]))
    assert obtained.dtype == np.int64
    assert obtained.sum() == len(size)
    edges = np.arange(1, 10) / 10
    above = obtained[::-1].cumsum()[::-1][1:]
    assert np.all(above >= (size[:, None] >= edges + CLOSE).sum(axis=0))
    assert np.all(above <= (size[:, None] >= edges - CLOSE).sum(axis=0))


def test_equal_neurons_are_in_the_last_bin():
    """A pair with abs(r) of 1, or a rounding above it, is counted in [0.9, 1.0]."""
    copies = (normal(777, 1) * torch.linspace(-3, 7, 40)).float()
    assert correlation_histogram(sums(copies)).tolist() == [0] * 9 + [40 * 39 // 2]
    assert np.abs(correlation(sums(copies))[0]).max() == 1


def test_a_pair_on_an_edge_is_in_the_upper_bin():
    """Bins are closed below: r of exactly 0.5 belongs to [0.5, 0.6)."""
    half = Correlations(4, np.zeros(2), np.array([[4, 2], [2, 4]], dtype=np.float32))
    assert correlation_histogram(half).tolist() == [0] * 5 + [1] + [0] * 4


@fresh
@given(*[st.lists(st.integers(0, 10**6), min_size=10, max_size=10).filter(any) for _ in range(2)])
def test_wasserstein_is_scipys_on_the_bin_centres(reference, candidate):
    """The distance agrees with scipy.stats on the same mass at the same places."""
    centres = np.arange(10) / 10 + 0.05
    expected = stats.wasserstein_distance(centres, centres, reference, candidate)
    assert wasserstein(np.array(reference), np.array(candidate)) == pytest.approx(expected, abs=1e-12)


def test_tail_mass_at_every_edge():
    """The share at or above an edge, all of it at 0."""
    histogram = np.arange(10)
    assert [tail_mass(histogram, k / 10) * 45 for k in range(10)] == pytest.approx(
        [sum(range(k, 10)) for k in range(10)]
    )


@pytest.mark.parametrize("at", [0.85, 1.0, -0.1, 0.05])
def test_tail_mass_knows_bin_edges_only(at):
    """Counts in bins say nothing of what is between two edges."""
    with pytest.raises(ValueError, match=f"bin edges .* got {at}"):
        tail_mass(np.ones(10, dtype=np.int64), at)


@pytest.mark.parametrize("histogram", [np.zeros(10, dtype=np.int64), np.ones(9, dtype=np.int64)])
def test_histograms_without_pairs_are_refused(histogram):
    """No pairs, or other bins, give no share."""
    with pytest.raises(ValueError, match="at least one pair in 10 bins"):
        wasserstein(histogram, histogram)


@given(layers())
def test_merged_sums_are_symmetric_to_the_last_bit(layer):
    """Half of the matrix is the whole: products of means, rounded in another order, do not differ."""
    activations, _ = layer
    scaled = [sums(part * 7**i + i) for i, part in enumerate(torch.tensor_split(activations.double(), 3))]
    comoment = merge_sums(scaled).comoment
    assert np.array_equal(comoment, comoment.T)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_activations_that_are_not_finite_are_an_error_that_names_the_neuron(bad):
    """NaN, infinity and what overflows when squared in float32 give no correlations."""
    activations = normal(10, 4).float()
    activations[7, 2] = bad
    with np.errstate(all="ignore"), pytest.raises(MeasurementError, match=r"of 4 neurons \(the first is 2\)"):
        sums(activations)


@pytest.mark.parametrize("activations", [torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.int64)])
def test_activations_of_another_shape_or_type_are_refused(activations):
    """The width of the layer and a floating dtype are expected."""
    with pytest.raises(ValueError, match=r"floating-point activations \(tokens, 4\)"):
        CorrelationSums(4).update(activations)


def test_records_of_other_neurons_are_refused():
    """Layers of different width are neither merged nor compared, and no part is larger than the whole."""
    narrow, wide = sums(normal(9, 3)), sums(normal(9, 4))
    for call in (lambda: merge_sums([narrow, wide]), lambda: correlation_change(narrow, wide), lambda: merge_sums([])):
        with pytest.raises(ValueError, match="of the same neurons"):
            call()
    with pytest.raises(ValueError, match="got one of 10 tokens"):
        without(narrow, sums(normal(10, 3)))
    with pytest.raises(ValueError, match="at least one neuron"):
        CorrelationSums(0)

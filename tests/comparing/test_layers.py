"""The metrics of the layers, each against the formula written out."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from pytest_quantcheck.analyses.draws import seeded_neurons
from pytest_quantcheck.analyses.resampling import grouped_jackknife
from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.options.attribution import AttributionMethod

LAYERS = (0, 2, 5)

ROUNDING = 2e-6
"""Correlations in float32 against float64: 2^-24 of values up to 1, a few times over."""


def dead(activations):
    """Which neurons stay inside (-0.1, 0.1) over all groups."""
    limit = np.float32(0.1)
    return (activations.minimum.min(axis=0) > -limit) & (activations.maximum.max(axis=0) < limit)


def moving(*models):
    """Neurons whose variance is not zero in any of the models."""
    return np.all([np.diagonal(model.correlations.comoment) > 0 for model in models], axis=0)


def at(comparison, metric, layer):
    """The estimate of a metric at a layer."""
    (found,) = (estimate for estimate in comparison.of(metric) if estimate.layer == layer)
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_dead_neuron_delta_is_the_change_of_the_share(reference, candidate, comparison, layer):
    """The number of dead neurons in either model, their difference without its sign, by the neurons there are."""
    before, after = dead(reference.activations[layer]), dead(candidate.activations[layer])
    found = at(comparison, "dead_neuron_delta", layer)
    assert found.value == abs(int(after.sum()) - int(before.sum())) / 384
    assert (found.reference, found.candidate) == (before.sum() / 384, after.sum() / 384)


@pytest.mark.parametrize("layer", LAYERS)
def test_dead_neuron_churn_counts_neurons(reference, candidate, comparison, layer):
    """The share of neurons that are dead in one model and alive in the other."""
    before, after = dead(reference.activations[layer]), dead(candidate.activations[layer])
    assert at(comparison, "dead_neuron_churn", layer).value == (before != after).sum() / 384


@pytest.mark.parametrize("layer", LAYERS)
def test_faint_neuron_churn_knows_the_layers_scale(reference, candidate, comparison, layer):
    """The share of neurons that are below a tenth of the reference's median amplitude in one model alone."""
    before, after = (
        np.maximum(-model.activations[layer].minimum.min(axis=0), model.activations[layer].maximum.max(axis=0))
        for model in (reference, candidate)
    )
    limit = np.median(before) / 10
    found = at(comparison, "faint_neuron_churn", layer)
    assert found.value == ((before <= limit) != (after <= limit)).sum() / 384
    assert (found.reference, found.candidate) == ((before <= limit).sum() / 384, (after <= limit).sum() / 384)


def test_faint_neurons_are_seen_where_all_are_dead(reference, changed, sampling):
    """A layer of tiny activations has no neuron that the fixed limit calls alive; a silenced tenth still shows."""
    found = reference.activations[2]
    minimum, maximum = found.minimum / 1000, found.maximum / 1000
    before = changed(reference, activations=(2, {"minimum": minimum, "maximum": maximum}))
    silent = np.arange(384) % 10 > 0
    after = changed(reference, activations=(2, {"minimum": minimum * silent, "maximum": maximum * silent}))
    comparison = compare(before, after, sampling)
    assert at(comparison, "dead_neuron_churn", 2).value == 0
    assert at(comparison, "faint_neuron_churn", 2).value == pytest.approx(39 / 384)


def test_a_damaged_layer_shows(reference, measured, sampling):
    """The 40 neurons that were silenced by hand are new among the dead of layer 2, and constant."""
    comparison = compare(reference, measured["damaged"], sampling)
    alive = 40 - dead(reference.activations[2])[7:47].sum()
    assert at(comparison, "dead_neuron_delta", 2).value == pytest.approx(alive / 384)
    assert at(comparison, "redundancy_change", 2).details["excluded_neurons"] == 40
    assert at(comparison, "dead_neuron_churn", 0).value == 0


def test_equal_counts_of_other_neurons_are_churn(reference, changed, sampling):
    """Permuting the neurons leaves the number of the dead and moves who is dead."""
    found = reference.activations[2]
    order = np.roll(np.arange(384), 1)
    minimum, maximum = found.minimum.copy(), found.maximum.copy()
    minimum[:, ::4] = maximum[:, ::4] = 0.01
    before = changed(reference, activations=(2, {"minimum": minimum, "maximum": maximum}))
    after = changed(reference, activations=(2, {"minimum": minimum[:, order], "maximum": maximum[:, order]}))
    comparison = compare(before, after, sampling)
    assert at(comparison, "dead_neuron_delta", 2).value == 0
    assert at(comparison, "dead_neuron_churn", 2).value >= 0.4


@pytest.mark.parametrize("layer", LAYERS)
def test_redundancy_change_is_the_mean_over_pairs(reference, candidate, comparison, correlations_of, layer):
    """Mean of abs(r' - r) over all pairs of neurons that vary in both models."""
    before, after = reference.activations[layer], candidate.activations[layer]
    there = np.flatnonzero(moving(before, after))
    matrices = [correlations_of(cut(model.correlations, there)) for model in (before, after)]
    pairs = np.triu_indices(len(there), 1)
    expected = np.abs(matrices[1] - matrices[0])[pairs].mean()
    assert at(comparison, "redundancy_change", layer).value == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_sample_of_neurons_widens_the_interval(reference, candidate, sampling, layer):
    """300 of 384 neurons: their own mean change, near that of all, in an interval that says what may be missed."""
    models = [sampled(model, seeded_neurons(384, 300, seed=0)) for model in (reference, candidate)]
    every, some = (
        at(compare(*pair, sampling), "redundancy_change", layer) for pair in ((reference, candidate), models)
    )
    error = some.details["sampling_error"]
    assert (every.details["neurons"], every.details["sampling_error"]) == (384, 0)
    assert some.details["neurons"] == 300
    assert (error > 0) == (some.value > 0)  # the damaged candidate's layers 0 and 2 have not moved
    assert error <= 0.2 * some.value
    assert abs(some.value - every.value) <= 4 * error
    # the neurons followed are the same, so what the prompts say is too, but for where the values are clipped
    if every.low > 0 and some.low > 0:
        of_prompts = every.high - every.value
        assert some.high - some.value == pytest.approx(np.hypot(of_prompts, 1.959964 * error), rel=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_bias_of_absolute_changes_extends_the_interval_downward(reference, measured, sampling, correlations_of, layer):
    """Twice Quenouille's estimate: (groups - 1) times what leaving one group out adds to the change, on average."""
    models = [model.activations[layer] for model in (reference, measured["nf4"])]

    def change(*left_out):
        kept = [[g for i, g in enumerate(model.groups) if i not in left_out and g.count] for model in models]
        r = [correlations_of(pooled(groups)) for groups in kept]
        return np.abs(r[1] - r[0])[np.triu_indices(len(r[0]), 1)].mean()

    n = len(models[0].groups)
    left_out = [change(g) for g in range(n)]
    bias = 2 * (n - 1) * (np.mean(left_out) - change())
    spread = grouped_jackknife(left_out, change(), confidence=sampling.confidence).high - change()
    found = at(compare(reference, measured["nf4"], sampling), "redundancy_change", layer)
    rounding = 2 * (n - 1) * ROUNDING
    assert found.low > 0
    assert bias > 10 * rounding
    assert found.details["bias_at_most"] == pytest.approx(bias, abs=rounding)
    assert found.value - found.low == pytest.approx(bias + (found.high - found.value), abs=rounding)
    # Student's t of 15 degrees of freedom times the spread of sixteen rounded changes: 2.2 * 15 ** 0.5 * ROUNDING
    assert found.high - found.value == pytest.approx(spread, abs=rounding)
    assert spread > 5 * rounding


def pooled(groups):
    """The sums of several groups of prompts in float64, by the textbook formula."""
    counts = [group.count for group in groups]
    mean = np.average([group.mean for group in groups], axis=0, weights=counts).astype(np.float64)
    between = [group.count * np.outer(group.mean - mean, group.mean - mean) for group in groups]
    comoment = np.sum([group.comoment.astype(np.float64) for group in groups], axis=0) + np.sum(between, axis=0)
    return dataclasses.replace(groups[0], count=sum(counts), mean=mean, comoment=comoment)


def sampled(model, neurons):
    """A measurement that correlates some of its neurons."""
    layers = {
        layer: dataclasses.replace(found, correlated=neurons, correlations=cut(found.correlations, neurons))
        for layer, found in model.activations.items()
    }
    return dataclasses.replace(model, activations=layers)


@pytest.mark.parametrize("layer", LAYERS)
def test_histograms_count_pairs_like_figure_4(reference, candidate, comparison, correlations_of, layer):
    """abs(r) of all pairs in ten bins for both models, and the tails and the distance between them follow."""
    sizes = {}
    for name, model in (("reference", reference), ("candidate", candidate)):
        sums = model.activations[layer].correlations
        there = np.flatnonzero(np.diagonal(sums.comoment) > 0)
        r = np.abs(correlations_of(cut(sums, there)))[np.triu_indices(len(there), 1)]
        sizes[name] = np.histogram(r, bins=10, range=(0, 1))[0]
        obtained = np.array(comparison.histograms[layer][name])
        assert obtained.sum() == len(r)
        assert np.abs(obtained - sizes[name]).max() <= 2  # pairs within float32 rounding of a bin's edge
    details = at(comparison, "redundancy_change", layer).details
    shares = {name: counts / counts.sum() for name, counts in sizes.items()}
    centres = np.arange(10) / 10 + 0.05
    expected = wasserstein_distance(centres, centres, shares["reference"], shares["candidate"])
    assert details["wasserstein"] == pytest.approx(expected, abs=1e-4)
    assert details["tail_0.8_change"] == pytest.approx((shares["candidate"] - shares["reference"])[8:].sum(), abs=1e-4)
    assert details["tail_0.9_change"] == pytest.approx((shares["candidate"] - shares["reference"])[9:].sum(), abs=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_moved_has_an_interval_of_no_width(reference, sampling, layer):
    """Neither all groups of prompts nor all but one show a change."""
    found = at(compare(reference, reference, sampling), "redundancy_change", layer)
    assert (found.value, found.low, found.high, found.details["bias_at_most"]) == (0, 0, 0, 0)


def test_tails_say_how_many_pairs_became_copies(reference, changed, sampling):
    """All neurons of the candidate's layer move together; few of the reference's do."""
    sums = reference.activations[2].correlations
    scale = np.sqrt(np.diagonal(sums.comoment).astype(np.float64))
    together = dataclasses.replace(sums, comoment=np.outer(scale, scale).astype(np.float32))
    copies = changed(reference, activations=(2, {"correlations": together}))
    comparison = compare(reference, copies, sampling)
    before = np.array(comparison.histograms[2]["reference"])
    for edge in (8, 9):
        change = at(comparison, "redundancy_change", 2).details[f"tail_0.{edge}_change"]
        assert change == pytest.approx(1 - before[edge:].sum() / before.sum())
        assert change > 0.5


def cut(sums, neurons):
    """The sums of some neurons."""
    return dataclasses.replace(sums, mean=sums.mean[neurons], comoment=sums.comoment[np.ix_(neurons, neurons)])


@pytest.mark.parametrize("layer", [2, 5])
def test_salient_overlap_is_the_mean_jaccard_index(reference, candidate, comparison, layer):
    """Per prompt, neurons salient in both by neurons salient in either; mean over prompts that converged in both."""
    before, after = reference.saliency[layer], candidate.saliency[layer]
    rows = {i: row for row, i in enumerate(after.index.tolist()) if after.converged[row]}
    indices = []
    for row, i in enumerate(before.index.tolist()):
        if before.converged[row] and i in rows:
            one, two = set(np.flatnonzero(before.salient[row])), set(np.flatnonzero(after.salient[rows[i]]))
            indices.append(len(one & two) / len(one | two))
    found = at(comparison, "salient_overlap", layer)
    assert found.value == pytest.approx(np.mean(indices), abs=1e-12)
    assert found.n_prompts == len(indices)
    assert found.details == {"attributed": 12, "converged": len(indices)}


def test_only_prompts_that_converged_in_both_count(reference, changed, sampling):
    """Two prompts unsettled here and three there, one of them in common: eight of twelve are averaged."""
    saliency = reference.saliency[5]
    masks = [np.array([i not in out for i in range(12)]) for out in ({0, 1}, {1, 2, 3})]
    inverted = saliency.salient.copy()
    inverted[:4] = ~inverted[:4]
    before = changed(reference, saliency=(5, {"converged": masks[0]}))
    after = changed(reference, saliency=(5, {"converged": masks[1], "salient": inverted}))
    found = at(compare(before, after, sampling), "salient_overlap", 5)
    assert (found.value, found.n_prompts) == (1.0, 8)


GROUPED = "jackknife over 16 groups of prompts"

METHODS = {
    "accuracy_drop": "adjusted Wald, paired",
    "confidence_drift": "paired studentised bootstrap, 400 draws",
    "ace_drift": "paired halves, 400 draws",
    "kl_divergence": "paired studentised bootstrap, 400 draws",
    "flip_rate": "exact binomial",
    "dead_neuron_delta": f"{GROUPED}, a neuron more or less",
    "dead_neuron_churn": f"{GROUPED}, a neuron more or less",
    "faint_neuron_churn": f"{GROUPED}, a neuron more or less",
    "salient_overlap": "bounded mean, 400 draws",
    "redundancy_change": f"{GROUPED}, less its bias",
}


def test_every_estimate_is_whole(comparison):
    """Value inside its interval, interval inside the range of its metric, prompts counted, level said."""
    of_dense_models = {
        name for name, metric in METRICS.items() if {"routing", "scored tokens"}.isdisjoint(metric.needs)
    }
    assert {estimate.metric for estimate in comparison.estimates} == of_dense_models
    for estimate in comparison.estimates:
        if estimate.value is None:
            continue
        assert estimate.low <= estimate.value <= estimate.high, estimate
        metric = METRICS[estimate.metric]
        assert metric.least <= estimate.low
        assert estimate.high <= metric.most
        assert estimate.confidence == 0.95
        assert estimate.n_prompts == (12 if "attributions" in metric.needs else 60)


@pytest.mark.parametrize(("metric", "method"), METHODS.items())
def test_each_estimate_names_the_method_of_its_interval(comparison, metric, method):
    """The one that its coverage was measured for."""
    assert {estimate.method for estimate in comparison.of(metric) if estimate.value is not None} == {method}


@pytest.mark.parametrize(
    "metric", [name for name, metric in METRICS.items() if metric.layered and "attributions" not in metric.needs]
)
def test_intervals_are_clipped_to_what_can_be(reference, measured, metric):
    """At an absurd level of confidence the interval would leave the range; it stops at its ends."""
    comparison = compare(reference, measured["damaged"], IntervalSettings(confidence=1 - 1e-12, draws=10))
    for estimate in comparison.of(metric):
        assert METRICS[metric].least <= estimate.low <= estimate.high <= METRICS[metric].most


@pytest.mark.parametrize("metric", ["dead_neuron_delta", "dead_neuron_churn"])
def test_interval_of_counted_neurons_is_the_jackknife_and_a_neuron(reference, measured, sampling, metric):
    """At either end: the neurons counted anew without each group of prompts, and one neuron more or less."""
    models = [model.activations[2] for model in (reference, measured["damaged"])]
    groups = range(len(models[0].groups))

    def value(kept):
        before, after = (dead(cut_groups(model, kept)) for model in models)
        return (
            (int(after.sum()) - int(before.sum())) / 384 if metric == "dead_neuron_delta" else (before != after).mean()
        )

    left_out = [value([g for g in groups if g != left]) for left in groups]
    whole, sizes = value(groups), [group.count for group in models[0].groups]
    interval = grouped_jackknife(left_out, whole, sizes=sizes)
    found = at(compare(reference, measured["damaged"], sampling), metric, 2)
    assert found.value == pytest.approx(whole)
    assert found.low == pytest.approx(interval.low - 1 / 384)
    assert found.high == pytest.approx(interval.high + 1 / 384)
    assert 0 < found.low < found.value - 1 / 384 < found.high < 1


def cut_groups(activations, kept):
    """The extremes in some groups of prompts."""
    kept = list(kept)
    return dataclasses.replace(activations, minimum=activations.minimum[kept], maximum=activations.maximum[kept])


@pytest.mark.parametrize("revived", [False, True])
@pytest.mark.parametrize("metric", ["dead_neuron_delta", "dead_neuron_churn"])
def test_one_group_that_decides_leaves_the_whole_range(reference, changed, sampling, metric, revived):
    """All neurons are alive in that group of one of the models alone: without it nothing has changed."""
    extremes = np.zeros_like(reference.activations[2].minimum)
    alive = extremes.copy()
    alive[3] = 1
    before, after = (
        changed(reference, activations=(2, {"minimum": extremes, "maximum": maximum}))
        for maximum in ((extremes, alive) if revived else (alive, extremes))
    )
    found = at(compare(before, after, sampling), metric, 2)
    assert (found.low, found.value, found.high) == (0, 1, 1)


def test_prompts_fewer_than_groups_are_as_many_groups(models, prompts, sampling):
    """Groups without a prompt do not count."""
    plan, few = Plan(layers=(2,), attribution=AttributionMethod("off")), list(range(10))
    before = measure(models["reference"], prompts, plan, model="builtin", index=few)
    after = measure(models["nf4"], prompts, plan, model="builtin", index=few, reference=before)
    found = {
        estimate.method.partition(",")[0] for estimate in compare(before, after, sampling).estimates if estimate.layer
    }
    assert found == {"jackknife over 10 groups of prompts"}


def test_more_prompts_make_narrower_intervals_of_correlations(models, prompts, reference, measured, sampling):
    """The jackknife over groups knows how many prompts there are: a quarter of them is wider."""
    plan, few = Plan(attribution=AttributionMethod("off")), list(range(15))
    before = measure(models["reference"], prompts, plan, model="builtin", index=few)
    after = measure(models["nf4"], prompts, plan, model="builtin", index=few, reference=before)
    widths = [
        [e.high - e.low for e in compare(*pair, sampling).of("redundancy_change")]
        for pair in ((before, after), (reference, measured["nf4"]))
    ]
    assert all(few > many for few, many in zip(*widths, strict=True))

"""Metrics of the layers: dead neurons, salient neurons, redundancy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.analyses.correlation_sums import without
from pytest_quantcheck.analyses.dead_neurons import (
    amplitude,
    amplitude_without_each,
    dead,
    dead_neuron_churn,
    dead_neuron_gain,
    dead_without_each,
    faint,
)
from pytest_quantcheck.analyses.redundancy import (
    correlation_change,
    correlation_histogram,
    sampling_error,
    tail_mass,
    wasserstein,
)
from pytest_quantcheck.analyses.resampling import Floats, Interval, grouped_jackknife, jackknife_bias
from pytest_quantcheck.analyses.routing import router_agreement
from pytest_quantcheck.analyses.saliency import attributable, jaccard
from pytest_quantcheck.comparing.estimators import estimates, estimators
from pytest_quantcheck.comparing.intervals import Facts, IntervalSettings
from pytest_quantcheck.comparing.judged_ffns import Ffns, judged, of_all
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Activations, Convergence, Correlations, Estimate, Experts, Measurement, Saliency

Masks = NDArray[np.bool_]


def layer_estimates(reference: Measurement, candidate: Measurement, intervals: IntervalSettings) -> Iterator[Estimate]:
    """Yield the estimates of every layered metric, layer by layer."""
    n = len(reference.answers.index)
    for layer in reference.provenance.layers:
        before, after = judged(reference, candidate, layer)
        for metric, estimate in estimators(of="layers"):
            needs = METRICS[metric].needs
            if "routing" in needs:
                if layer in reference.experts:
                    yield estimate(layer, reference.experts[layer], candidate.experts[layer], intervals)
            elif "attributions" in needs:
                if layer in reference.saliency:
                    yield estimate(layer, reference.saliency[layer], candidate.saliency.get(layer), intervals)
            elif before:
                yield estimate(layer, before, after, n, intervals)
            else:
                reason = "no FFN was reached by tokens of two groups of prompts in both models"
                yield intervals.undefined(METRICS[metric].name, reason, n, layer=layer)


def histograms(reference: Measurement, candidate: Measurement) -> dict[int, dict[str, tuple[int, ...]]]:
    """Count pairs of neurons by abs(r), for each layer and both models.

    There are ten bins, as in the paper's Figure 4.
    """
    return {
        layer: {
            name: tuple(int(count) for count in _histogram(model.ffns(layer)))
            for name, model in (("reference", reference), ("candidate", candidate))
        }
        for layer in reference.provenance.layers
    }


def convergence(reference: Measurement, candidate: Measurement) -> dict[int, dict[str, Convergence]]:
    """Summarize both models' attributions at each layer where one was tried."""
    models = {"reference": reference.saliency, "candidate": candidate.saliency}
    return {
        layer: {name: _summarize(saliency[layer]) for name, saliency in models.items() if layer in saliency}
        for layer in reference.saliency
    }


def _summarize(saliency: Saliency) -> Convergence:
    return Convergence(
        attributed=len(saliency.index),
        converged=int(saliency.converged.sum()),
        median_nodes=_median(saliency.nodes),
        median_error=_median(saliency.error),
    )


def _median(values: NDArray[Any]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


@estimates("dead_neuron_delta")
def _dead_neuron_delta(layer: int, before: Ffns, after: Ffns, n: int, intervals: IntervalSettings) -> Estimate:
    masks, left_out, occupied = _dead(before, after)
    facts, floor = _counted(layer, masks, occupied)
    gain = float(dead_neuron_gain(*masks))
    spread = _half_width(dead_neuron_gain(*left_out), gain, _tokens(before)[occupied], intervals) + floor
    return intervals.absolute_change("dead_neuron_delta", gain, _within(gain, spread, -1, 1), n, **facts)


@estimates("dead_neuron_churn")
def _dead_neuron_churn(layer: int, before: Ffns, after: Ffns, n: int, intervals: IntervalSettings) -> Estimate:
    masks, left_out, occupied = _dead(before, after)
    facts, floor = _counted(layer, masks, occupied)
    churn = float(dead_neuron_churn(*masks))
    spread = _half_width(dead_neuron_churn(*left_out), churn, _tokens(before)[occupied], intervals) + floor
    return intervals.estimate("dead_neuron_churn", churn, _within(churn, spread, 0, 1), n, **facts)


def _dead(before: Ffns, after: Ffns) -> tuple[list[Masks], list[Masks], Masks]:
    """Find both models' dead neurons, in all and without each group.

    The third value says which groups have prompts.
    """
    occupied = _tokens(before) > 0
    masks, left_out = [], []
    for ffns in (before, after):
        masks.append(of_all(ffns, lambda one: dead(one.minimum, one.maximum, rectified=one.rectified)))
        left_out.append(
            of_all(
                ffns,
                lambda one: dead_without_each(one.minimum[occupied], one.maximum[occupied], rectified=one.rectified),
            )
        )
    return masks, left_out, occupied


@estimates("faint_neuron_churn")
def _faint_neuron_churn(layer: int, before: Ffns, after: Ffns, n: int, intervals: IntervalSettings) -> Estimate:
    """Estimate the churn of faint neurons.

    The scale is that of the reference's layer, computed again with each group left out.
    """
    sizes, occupied = _tokens(before), _tokens(before) > 0
    amplitudes, without_each = [], []
    for ffns in (before, after):
        amplitudes.append(of_all(ffns, lambda one: amplitude(one.minimum, one.maximum)))
        without_each.append(
            of_all(ffns, lambda one: amplitude_without_each(one.minimum[occupied], one.maximum[occupied]))
        )
    masks, left_out = ([faint(model, models[0]) for model in models] for models in (amplitudes, without_each))
    churn, (facts, floor) = float(dead_neuron_churn(*masks)), _counted(layer, masks, occupied)
    spread = _half_width(dead_neuron_churn(*left_out), churn, sizes[occupied], intervals) + floor
    return intervals.estimate("faint_neuron_churn", churn, _within(churn, spread, 0, 1), n, **facts)


def _counted(layer: int, masks: Sequence[NDArray[np.bool_]], occupied: NDArray[np.bool_]) -> tuple[Facts, float]:
    """Fill the fields of an estimate that counts neurons; find its floor.

    The floor is the share of one neuron. No change can be smaller. Where no neuron depends on one group of prompts, the
    jackknife's width is 0.
    """
    floor = 1 / len(masks[0])
    facts: Facts = {
        "layer": layer,
        "method": f"{_jackknifed(occupied)}, a neuron more or less",
        "details": {"neurons": float(masks[0].size), "floor": floor},
        "reference": float(masks[0].mean()),
        "candidate": float(masks[1].mean()),
    }
    return facts, floor


@estimates("redundancy_change")
def _redundancy_change(layer: int, before: Ffns, after: Ffns, n: int, intervals: IntervalSettings) -> Estimate:
    """Estimate the redundancy change.

    The value is over all correlated neurons; the interval's width comes from the neurons followed in each group. Where
    not all neurons are correlated, the sampling error is added to the width. The bias that sampling prompts adds to
    absolute changes, at most twice the jackknife's estimate of it, extends the interval downward. Pairs are made within
    FFNs; each FFN counts by its pairs and by the tokens that reach it.
    """
    changes = [
        correlation_change(one.correlations, other.correlations) for one, other in zip(before, after, strict=True)
    ]
    compared, excluded = sum(len(one.correlated) for one in before), sum(change.excluded for change in changes)
    weights = np.array([change.pairs * _weight(one) for change, one in zip(changes, before, strict=True)])
    if not weights.any():
        reason = f"{excluded} of {compared} neurons are constant, so no pair is left"
        return intervals.undefined("redundancy_change", reason, n, layer=layer)
    shares = weights / weights.sum()
    mean = float(sum(share * (change.mean or 0.0) for share, change in zip(shares, changes, strict=True)))
    occupied = _tokens(before) > 0
    spread, bias = _followed_spread(before, after, shares, occupied, intervals)
    missed = math.hypot(
        *(
            share * sampling_error(change, len(one.correlated), one.minimum.shape[1])
            for share, change, one in zip(shares, changes, before, strict=True)
            if share
        )
    )
    half = math.hypot(spread, intervals.quantile * missed)
    counts = [_histogram(model) for model in (before, after)]
    details = {
        "neurons": float(compared),
        "followed_neurons": float(sum(len(one.sample) for one in before)),
        "sampling_error": missed,
        "floor": intervals.quantile * missed,
        "bias_at_most": bias,
        "excluded_neurons": float(excluded),
        "wasserstein": wasserstein(*counts),
        "tail_0.8_change": tail_mass(counts[1], 0.8) - tail_mass(counts[0], 0.8),
        "tail_0.9_change": tail_mass(counts[1], 0.9) - tail_mass(counts[0], 0.9),
    }
    interval = Interval(max(0.0, mean - bias - half), min(2.0, mean + half))
    return intervals.estimate(
        "redundancy_change",
        mean,
        interval,
        n,
        layer=layer,
        method=f"{_jackknifed(occupied)}, less its bias",
        details=details,
    )


def _weight(ffn: Activations) -> float:
    """Weigh a pair of correlated neurons: by the pairs that it stands for, and the FFN's tokens."""
    return float(ffn.minimum.shape[1] / len(ffn.correlated)) ** 2 * ffn.correlations.count


def _histogram(ffns: Ffns) -> NDArray[np.int64]:
    return np.asarray(np.sum([correlation_histogram(ffn.correlations) for ffn in ffns], axis=0))


@estimates("salient_overlap")
def _salient_overlap(layer: int, before: Saliency, after: Saliency | None, intervals: IntervalSettings) -> Estimate:
    metric: MetricName = "salient_overlap"
    tried = len(before.index)
    if not attributable(before.converged):
        reason = f"the reference's attributions converge for {before.converged.sum()} of {tried} prompts there"
        return intervals.undefined(metric, reason, tried, layer=layer, applicable=False)
    if after is None or not attributable(after.converged):
        came = 0 if after is None else int(after.converged.sum())
        reason = f"the candidate's attributions converge for {came} of {tried} prompts, the reference's for most"
        return intervals.undefined(metric, reason, tried, layer=layer)
    both, in_before, in_after = np.intersect1d(before.index, after.index, assume_unique=True, return_indices=True)
    settled = before.converged[in_before] & after.converged[in_after]
    if np.count_nonzero(settled) < (fewest := METRICS[metric].fewest):
        reason = f"{np.count_nonzero(settled)} prompts converge in both models and {fewest} are needed"
        return intervals.undefined(metric, f"{reason}: raise --quantcheck-attribution-samples", tried, layer=layer)
    overlap = jaccard(before.salient[in_before][settled], after.salient[in_after][settled])
    details = {"attributed": float(len(both)), "converged": float(settled.sum())}
    return _mean_over_prompts(metric, layer, overlap, intervals, details)


@estimates("router_agreement")
def _router_agreement(layer: int, before: Experts, after: Experts, intervals: IntervalSettings) -> Estimate:
    agreement = router_agreement(before.chosen, after.chosen)
    starts = np.cumsum([0, *before.lengths[:-1]])
    by_prompt = np.add.reduceat(agreement, starts) / before.lengths
    details = {"tokens": float(len(agreement)), "experts": float(len(before.neurons))}
    return _mean_over_prompts("router_agreement", layer, by_prompt, intervals, details)


def _mean_over_prompts(
    metric: MetricName, layer: int, values: Floats, intervals: IntervalSettings, details: dict[str, float]
) -> Estimate:
    """Estimate the mean of values in [0, 1], one for each prompt."""
    return intervals.estimate(
        metric,
        float(values.mean()),
        intervals.bounded_mean(values),
        len(values),
        method=f"bounded mean, {intervals.draws} draws",
        layer=layer,
        details=details,
    )


def _tokens(ffns: Ffns) -> Floats:
    """Count the tokens of each group; in a mixture each as often as it has experts."""
    return np.asarray(np.sum([[group.count for group in ffn.groups] for ffn in ffns], axis=0, dtype=np.float64))


def _jackknifed(occupied: NDArray[np.bool_]) -> str:
    return f"jackknife over {np.count_nonzero(occupied)} groups of prompts"


def _half_width(left_out: Floats, value: float, sizes: Floats | None, intervals: IntervalSettings) -> float:
    """Estimate half the width of the jackknife interval."""
    interval = grouped_jackknife(left_out, value, confidence=intervals.confidence, sizes=sizes)
    return (interval.high - interval.low) / 2


def _within(value: float, half: float, least: float, most: float) -> Interval:
    return Interval(max(least, value - half), min(most, value + half))


def _followed(activations: Activations) -> Correlations:
    return activations.correlations.of(np.searchsorted(activations.correlated, activations.sample))


def _followed_spread(
    before: Ffns, after: Ffns, shares: Floats, occupied: NDArray[np.bool_], intervals: IntervalSettings
) -> tuple[float, float]:
    """Estimate half the width from the followed neurons, and twice their bias.

    It is the whole range where matching left no pair.
    """
    if any(len(ffn.sample) < 2 for ffn in before):
        return 2.0, 0.0
    left_out, followed = np.zeros(np.count_nonzero(occupied)), 0.0
    for share, one, other in zip(shares, before, after, strict=True):
        value = _followed_change(one, other)
        left_out += share * _changes_without_each(one, other, occupied, value)
        followed += share * value
    return _half_width(left_out, followed, None, intervals), 2 * max(0.0, jackknife_bias(left_out, followed))


def _followed_change(before: Activations, after: Activations) -> float:
    return correlation_change(_followed(before), _followed(after)).mean or 0.0


def _changes_without_each(before: Activations, after: Activations, occupied: NDArray[np.bool_], whole: float) -> Floats:
    """Find the change without each group; `whole` where a group has none of the tokens."""
    followed = _followed(before), _followed(after)
    changes = [
        correlation_change(without(followed[0], before.groups[g]), without(followed[1], after.groups[g])).mean or 0.0
        if before.groups[g].count or after.groups[g].count
        else whole
        for g in np.flatnonzero(occupied)
    ]
    return np.array(changes)

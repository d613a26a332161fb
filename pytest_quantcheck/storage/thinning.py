"""Baselines: a reference's measurement small enough to commit, with all that a comparison needs."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from pytest_quantcheck.analyses.draws import neurons_of_each, seeded_neurons
from pytest_quantcheck.options.values import FEWEST_NEURONS
from pytest_quantcheck.records import Activations, Experts, Measurement
from pytest_quantcheck.storage.atomic import write_atomically
from pytest_quantcheck.storage.measurement_files import FILE, refused, to_bytes

_ENTRY = 16
"""Bytes by which an array's entry in the header may grow when the arrays do: three numbers of more digits."""


def save_baseline(measurement: Measurement, directory: Path, budget: int = 20_000_000) -> None:
    """Save a reference's measurement as a baseline in a directory.

    Correlations are rounded to 1/32,767, so a redundancy change differs by 1.53e-5 at most; which neurons are constant
    is kept exactly, and so is everything else. As many correlated neurons are kept as fit into the budget: the seeded
    sample that a measurement of so many neurons would take. Candidates measured against the baseline correlate the
    same ones. At least 256 are kept, even where the baseline then exceeds the budget, as with all layers of a wide
    model.

    A baseline that is loaded and saved again is the same, byte for byte.

    Args:
        measurement: what is to be kept.
        directory: where; see `save_measurement`.
        budget: bytes that the file may take.

    Raises:
        StorageError: NaN or infinite correlations, a record that could not be loaded again, neurons that no seeded
            sample of fewer is part of, or a place that cannot be written; what was there before is unchanged.
    """
    try:
        parts = _baseline(measurement, budget)
    except ValueError as problem:
        raise refused(directory, problem) from None
    write_atomically(directory / FILE, *parts)


def _baseline(measurement: Measurement, budget: int) -> tuple[bytes, memoryview]:
    parts = to_bytes(_thinned(measurement, FEWEST_NEURONS), rounded=True)
    spare = budget - sum(map(len, parts)) - _ENTRY * _n_arrays(measurement)
    spare += _bytes_of(measurement, FEWEST_NEURONS)
    most = max(len(seen.correlated) for seen in _every(measurement))
    more = range(FEWEST_NEURONS + 1, most + 1)
    kept = FEWEST_NEURONS + bisect_right(more, spare, key=lambda n: _bytes_of(measurement, n))
    return to_bytes(_thinned(measurement, kept), rounded=True) if kept > FEWEST_NEURONS else parts


def _thinned(measurement: Measurement, most: int) -> Measurement:
    """Keep at most `most` neurons correlated in each layer."""
    seed = measurement.provenance.seed
    activations = {layer: _fewer(layer, seen, most, seed) for layer, seen in measurement.activations.items()}
    experts = {layer: _fewer_of_each(layer, seen, most, seed) for layer, seen in measurement.experts.items()}
    kept = min(measurement.provenance.redundancy_neurons, most)
    provenance = msgspec.structs.replace(measurement.provenance, redundancy_neurons=kept)
    return replace(measurement, provenance=provenance, activations=activations, experts=experts)


def _fewer_of_each(layer: int, seen: Experts, most: int, seed: int) -> Experts:
    each = neurons_of_each(most, len(seen.neurons))
    return replace(seen, neurons=tuple(_fewer(layer, one, each, seed) for one in seen.neurons))


def _fewer(layer: int, seen: Activations, most: int, seed: int) -> Activations:
    if len(seen.correlated) <= most:
        return seen
    kept = seeded_neurons(seen.minimum.shape[1], most, seed)
    if not (np.isin(kept, seen.correlated).all() and np.isin(seen.sample, kept).all()):
        raise ValueError(
            f"expected the neurons correlated in layer {layer} to be a sample of seed {seed}, of which fewer can be "
            "kept, got others; measure again with this release, or keep the whole measurement"
        )
    return replace(seen, correlated=kept, correlations=seen.correlations.of(np.searchsorted(seen.correlated, kept)))


def _bytes_of(measurement: Measurement, most: int) -> int:
    """Count the bytes of the correlations of `most` neurons in each layer.

    At most: r of each pair, and number, mean and squares of each neuron.
    """
    widths = [min(len(seen.correlated), most) for seen in measurement.activations.values()]
    for mixture in measurement.experts.values():
        each = neurons_of_each(most, len(mixture.neurons))
        widths += [min(len(seen.correlated), each) for seen in mixture.neurons]
    return sum(n * (n - 1) // 2 * 2 + n * (4 + 8 + 4) for n in widths)


def _n_arrays(measurement: Measurement) -> int:
    """Count the arrays that a measurement has at most.

    7 are of the answers and 8 of scored tokens; of each layer and expert 4, 3 for its correlations and for each
    group's; of a layer's saliency 6, and of where its tokens went 2.
    """
    return (
        7 + 8 + 8 * len(measurement.provenance.layers) + sum(7 + 3 * len(seen.groups) for seen in _every(measurement))
    )


def _every(measurement: Measurement) -> list[Activations]:
    return [ffn for layer in measurement.provenance.layers for ffn in measurement.ffns(layer)]

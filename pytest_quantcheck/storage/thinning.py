"""Baselines: a reference's measurement small enough to commit, with all that a comparison needs."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from pytest_quantcheck.analyses.sampling import seeded_neurons
from pytest_quantcheck.options.values import FEWEST_NEURONS
from pytest_quantcheck.records import Activations, Measurement
from pytest_quantcheck.storage.atomic import write_directory_atomically
from pytest_quantcheck.storage.measurements import refused, to_files

_ENTRY = 16
"""Bytes by which an array's entry in the header may grow when the arrays do: three numbers of more digits."""


def save_baseline(measurement: Measurement, directory: Path, budget: int = 20_000_000) -> None:
    """Save a reference's measurement as a baseline of at most `budget` bytes, in place of an older one.

    Correlations are rounded to 1/32,767, so a redundancy change differs by 1.53e-5 at most; which neurons are constant
    is kept exactly, and so is everything else. Of the neurons that are correlated as many are kept as fit, a seeded
    sample as a measurement of so many would take: candidates measured against the baseline correlate the same ones.
    Where even 256 of them do not fit, as with all layers of a wide model, 256 are kept and the baseline is larger.

    A baseline that is loaded and saved again is the same, byte for byte.

    Args:
        measurement: what is to be kept.
        directory: where; see `save_measurement`.
        budget: bytes that the directory may take.

    Raises:
        StorageError: NaN or infinite correlations, a record that could not be loaded again, neurons that no seeded
            sample of fewer is part of, or a place that cannot be written; what was there before is unchanged.
    """
    try:
        files = _baseline(measurement, budget)
    except ValueError as problem:
        raise refused(directory, problem) from None
    write_directory_atomically(directory, files)


def _baseline(measurement: Measurement, budget: int) -> dict[str, bytes]:
    files = to_files(_thinned(measurement, FEWEST_NEURONS), rounded=True)
    spare = budget - sum(map(len, files.values())) - _ENTRY * _n_arrays(measurement)
    spare += _bytes_of(measurement, FEWEST_NEURONS)
    most = max(len(seen.correlated) for seen in measurement.activations.values())
    more = range(FEWEST_NEURONS + 1, most + 1)
    kept = FEWEST_NEURONS + bisect_right(more, spare, key=lambda n: _bytes_of(measurement, n))
    return to_files(_thinned(measurement, kept), rounded=True) if kept > FEWEST_NEURONS else files


def _thinned(measurement: Measurement, most: int) -> Measurement:
    """The measurement with at most so many neurons correlated in each layer."""
    seed = measurement.provenance.seed
    activations = {layer: _fewer(layer, seen, most, seed) for layer, seen in measurement.activations.items()}
    kept = max(len(seen.correlated) for seen in activations.values())
    provenance = msgspec.structs.replace(measurement.provenance, redundancy_neurons=kept)
    return replace(measurement, provenance=provenance, activations=activations)


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
    """Bytes at most for so many correlated neurons a layer: r of each pair, number, mean and squares of each."""
    widths = [min(len(seen.correlated), most) for seen in measurement.activations.values()]
    return sum(n * (n - 1) // 2 * 2 + n * (4 + 8 + 4) for n in widths)


def _n_arrays(measurement: Measurement) -> int:
    """Arrays at most: 7 of the answers; of each layer 4, 3 for all of its correlations and each group's, 6 salient."""
    return 7 + sum(13 + 3 * len(seen.groups) for seen in measurement.activations.values())

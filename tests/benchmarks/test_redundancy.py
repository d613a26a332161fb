"""Correlations of d neurons over n tokens with their histogram, and their change between two models, against NumPy.

The contender is handed batches as a model's layer gives them, the peers all tokens at once in float32.
`numpy.corrcoef` computes in float64 unless it is told otherwise; that it can be told is the second peer. Its product
of a matrix with itself is BLAS's `syrk`: it leaves out the redundant half as well.
"""

from functools import partial

import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.redundancy import (
    correlation,
    correlation_change,
    correlation_histogram,
)

BATCH = 800

SIZES = [
    pytest.param(1536, torch.bfloat16, id="1536-bf16"),
    pytest.param(4096, torch.float32, id="4096-fp32"),
    pytest.param(4096, torch.bfloat16, id="4096-bf16"),
    pytest.param(14336, torch.bfloat16, marks=pytest.mark.slow, id="14336-bf16"),
]

PEERS = {"numpy.corrcoef": None, "numpy.corrcoef(dtype=float32)": np.float32}
"""What comes of it goes through `numpy.histogram`, or the mean of the absolute difference of two."""


def activations(n, d, dtype, seed=0):
    """Neurons (n, d) that share a few causes, far from zero in places, in the dtype a layer gives."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, d, generator=generator)
    values += torch.randn(n, 8, generator=generator) @ torch.randn(8, d, generator=generator) / 2
    return (values + torch.linspace(-3, 3, d)).to(dtype)


def streamed(batches):
    """Return the correlation sums of batches."""
    sums = CorrelationSums(batches[0].shape[1])
    for batch in batches:
        sums.update(batch)
    return sums.result()


def upper(matrix):
    """Return the entries above the diagonal, by the fastest of NumPy's ways."""
    return matrix[np.triu(np.ones(matrix.shape, dtype=bool), 1)]


@pytest.fixture
def compete(race, full, matrix_rate):
    """Race at a width; one round where it takes minutes. The floor is half of each model's product."""

    def run(contender, peer, *, d, n, dtype, models=1):
        few = {"rounds": 3} if d < 10_000 else {"rounds": 1, "warmup": 0}
        peers = {name: partial(peer, precision) for name, precision in PEERS.items()}
        floor = models * n * d * d / matrix_rate()
        name = str(dtype).removeprefix("torch.")
        return race(contender, peers, floor=lambda _: floor, d=d, n_tokens=n, dtype=name, models=models, **few)

    return run


@pytest.mark.benchmark(group="redundancy")
@pytest.mark.parametrize(("d", "dtype"), SIZES)
def test_correlations_and_their_histogram(compete, full, d, dtype):
    """One model: correlations of all pairs, counted by abs(r) in ten bins."""
    d, n = (d, 8192) if full else (400, 900)
    tokens = activations(n, d, dtype)
    batches, rows = torch.split(tokens, BATCH), tokens.float().numpy()

    def contender():
        found = streamed(batches)
        return found, correlation_histogram(found)

    def peer(precision):
        r = np.corrcoef(rows, rowvar=False, dtype=precision)
        return r, np.histogram(np.abs(upper(r)), bins=10, range=(0, 1))[0]

    (found, counted), peers = compete(contender, peer, d=d, n=n, dtype=dtype)
    for r, expected in peers.values() if not full else ():
        np.testing.assert_allclose(correlation(found)[0], r, atol=2e-5)  # both within 1e-5 of the truth
        assert counted.sum() == expected.sum()
        assert np.abs(counted - expected).max() <= 5  # pairs within rounding of a bin's edge


@pytest.mark.benchmark(group="redundancy")
@pytest.mark.parametrize(("d", "dtype"), SIZES)
def test_correlation_change(compete, full, d, dtype):
    """Two models: the mean over all pairs of how far r moved."""
    d, n = (d, 8192) if full else (400, 900)
    models = [activations(n, d, dtype, seed) for seed in (0, 1)]
    batches, rows = [torch.split(model, BATCH) for model in models], [model.float().numpy() for model in models]

    def contender():
        return correlation_change(*(streamed(model) for model in batches))

    def peer(precision):
        expected, obtained = (np.corrcoef(tokens, rowvar=False, dtype=precision) for tokens in rows)
        return np.abs(upper(obtained - expected)).mean(dtype=np.float64)

    change, peers = compete(contender, peer, d=d, n=n, dtype=dtype, models=2)
    for expected in peers.values() if not full else ():
        assert change.pairs == d * (d - 1) // 2
        assert change.mean == pytest.approx(expected, abs=2e-5)

"""Dead neurons from streamed extremes, against the paper's way: every activation on disk, then a scan."""

import h5py
import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.dead_neurons import dead, new_extremes, update_extremes

GROUPS = 16


def streamed(batches, groups, neurons):
    """Our pass: extremes of each group of prompts, batch by batch."""
    minimum, maximum = new_extremes(GROUPS, neurons)
    for activations, group in zip(batches, groups, strict=True):
        update_extremes(minimum, maximum, activations, group)
    return dead(minimum.numpy(), maximum.numpy(), rectified=False)


def written_and_scanned(batches, neurons, path):
    """The paper's: one dataset a neuron to which each batch is appended; then all are read and looked through."""
    with h5py.File(path, "w") as file:
        for neuron in range(neurons):
            file.create_dataset(str(neuron), shape=(0,), maxshape=(None,), dtype="float32")
        for batch in batches:
            values = batch.float().numpy()
            for neuron in range(neurons):
                dataset = file[str(neuron)]
                dataset.resize(len(dataset) + len(values), axis=0)
                dataset[-len(values) :] = values[:, neuron]
    with h5py.File(path, "r") as file:
        return np.array([np.all(np.abs(file[str(neuron)][:]) < 0.1) for neuron in range(neurons)])


def activations(n_batches, tokens, neurons):
    """Batches (tokens, neurons) bfloat16 in which one neuron in eight stays near zero."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.where(torch.arange(neurons) % 8 == 0, 0.015, 1.0)
    return [(torch.randn(tokens, neurons, generator=generator) * scale).bfloat16() for _ in range(n_batches)]


@pytest.mark.benchmark(group="dead neurons")
def test_dead_neurons_of_one_layer(race, full, bandwidth, tmp_path):
    """A layer of the 135M model on 256 prompts of 52 tokens, 16 in a batch; the same neurons are dead either way."""
    n_batches, length, neurons = (16, 52, 1536) if full else (3, 5, 24)
    batches = activations(n_batches, 16 * length, neurons)
    groups = [torch.arange(16).repeat_interleave(length)] * n_batches
    found, others = race(
        lambda: streamed(batches, groups, neurons),
        {"HDF5 per neuron, then a scan": lambda: written_and_scanned(batches, neurons, tmp_path / "neurons.h5")},
        rounds=3,
        floor=lambda _: sum(batch.nbytes for batch in batches) / bandwidth,
        neurons=neurons,
        tokens=n_batches * 16 * length,
        dtype="bfloat16",
    )
    assert found.any()
    assert not found.all()
    np.testing.assert_array_equal(found, others["HDF5 per neuron, then a scan"])

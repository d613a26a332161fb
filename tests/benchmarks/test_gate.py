"""The whole gate against the way the paper's scripts go for the same quantities."""

import time

import h5py
import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients

from pytest_quantcheck.measuring import NoProgress
from pytest_quantcheck.models.encoding import encode
from pytest_quantcheck.options import settings_from
from pytest_quantcheck.options.attribution import PAPER_NODES
from pytest_quantcheck.run.gate import Gate


class Scripts:
    """One model, gone through as the paper's scripts do: a prompt at a time, activations to disk neuron by neuron.

    Each step is timed on few prompts and neurons and scaled up to all, in proportion.
    """

    def __init__(self, loaded, prompts, layers, folder):
        self.loaded, self.layers, self.folder = loaded, layers, folder
        self.encoded = encode(loaded.tokenizer, prompts.texts, chat=bool(prompts.chat))

    def seconds(self, *, attributed, tried, neurons, nodes):
        """Of each step, for all prompts: answers, activations, dead neurons, correlations, attributions."""
        sample = self.encoded[:tried]
        share = len(self.encoded) / tried
        answers, activations = timed(lambda: [self.forward(ids) for ids in sample])
        width = activations[0][self.layers[0]].shape[-1]
        stored, path = timed(lambda: self.store(activations, neurons))
        scanned, _ = timed(lambda: self.scan(path))
        several = share * width / neurons
        tokens = sum(map(len, self.encoded))
        attributions, _ = timed(lambda: [self.attribute(sample[0], layer, nodes) for layer in self.layers])
        return {
            "forward passes": answers * share,
            "activations to HDF5": stored * several,
            "scan for dead neurons": scanned * width / neurons,
            "correlations": timed(lambda: self.correlate(width, tokens))[0] * len(self.layers),
            "attributions": attributions * attributed,
        }

    @torch.no_grad()
    def forward(self, ids):
        """The next token, and the activations of each layer that pass by."""
        seen, handles = {}, []
        for layer in self.layers:
            module = self.loaded.neurons.activation(layer)
            hook = lambda _m, _a, out, to=layer: seen.__setitem__(to, out[0].float().numpy())  # noqa: E731
            handles.append(module.register_forward_hook(hook))
        ids = torch.tensor([ids])
        self.loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
        for handle in handles:
            handle.remove()
        return seen

    def store(self, activations, neurons):
        """Append to one data set for each neuron and layer."""
        path = self.folder / "activations.h5"
        with h5py.File(path, "w") as file:
            for seen in activations:
                for layer, values in seen.items():
                    for neuron in range(neurons):
                        name = f"{layer}/{neuron}"
                        if name not in file:
                            file.create_dataset(name, (0,), maxshape=(None,), chunks=(1024,), dtype="f4")
                        before = len(file[name])
                        file[name].resize(before + len(values), axis=0)
                        file[name][before:] = values[:, neuron]
        return path

    def scan(self, path):
        """For neurons that never leave (-0.1, 0.1)."""
        with h5py.File(path) as file:
            return sum(bool(np.all(np.abs(values[:]) < 0.1)) for layer in file.values() for values in layer.values())

    def correlate(self, width, tokens):
        """All pairs of one layer's neurons, and their histogram; what the activations are does not change the time."""
        values = np.random.default_rng(0).normal(size=(tokens, width)).astype(np.float32)
        pairs = np.abs(np.corrcoef(values, rowvar=False)[np.triu_indices(width, 1)])
        return np.histogram(pairs, bins=10, range=(0, 1))

    def attribute(self, ids, layer, nodes):
        """Captum's layer integrated gradients of the answer's log-probability."""

        def log_prob(ids):
            return self.loaded.model(input_ids=ids).logits[:, -1].log_softmax(-1).amax(-1)

        ids = torch.tensor([ids])
        module = self.loaded.neurons.activation(layer)
        return LayerIntegratedGradients(log_prob, module).attribute(
            ids, baselines=torch.zeros_like(ids), n_steps=nodes, method="gausslegendre"
        )


def timed(function):
    """How long it took, and what it gave."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


class Clock(NoProgress):
    """A progress listener that keeps the seconds of each phase of each model."""

    def __init__(self):
        self.seconds = {}

    def __call__(self, label):
        self.label = label
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, phase, _total, _done=0):
        self.phase, self.began = f"{self.label}, {phase}", time.perf_counter()

    def finish(self):
        self.seconds[self.phase] = time.perf_counter() - self.began


@pytest.fixture
def settings(request, full, pytester):
    """The gate's settings: int8 and nf4, all metrics; paths and prompts as `prompts` reads them."""
    import os

    from tests.benchmarks.conftest import BOOLQ, PROMPTS

    options = (
        ["--quantcheck-samples=256"] if full else ["--quantcheck-samples=24", "--quantcheck-attribution-samples=6"]
    )
    if full:
        options.append(f"--quantcheck-model={request.getfixturevalue('smollm2')}")
        if PROMPTS in os.environ:
            options += [f"--quantcheck-prompts={os.environ[PROMPTS]}", f"--quantcheck-template={BOOLQ}"]
    else:
        options.append("--quantcheck-model=builtin")
    return settings_from(pytester.parseconfig(*options))


@pytest.mark.minutes
@pytest.mark.benchmark(group="gate")
def test_whole_gate(settings, model, benchmark, full, tmp_path):
    """Reference, int8 and nf4 on 256 prompts with every metric and its interval, from loading to verdicts.

    The scripts' time is that of the reference in float32, measured on four prompts and 64 neurons, times the three
    models: kinder than int8 and nf4 kernels would be. They know no intervals.
    """
    clock = Clock()
    gate = Gate(settings, clock)

    def run():
        clock.seconds.clear()
        return [gate.judge(metric, bits) for bits in gate.candidates for metric in gate.metrics]

    began = time.perf_counter()
    verdicts = benchmark.pedantic(run, rounds=1)
    seconds = time.perf_counter() - began if full else 1.0
    (prompts,) = gate.prompt_sets.values()
    loaded = model()
    layers = [0, (loaded.n_layers - 1) // 2, loaded.n_layers - 1]
    scripts = Scripts(loaded, prompts, layers, tmp_path)
    sizes = {"tried": 4, "neurons": 64, "nodes": PAPER_NODES} if full else {"tried": 2, "neurons": 4, "nodes": 4}
    steps = scripts.seconds(attributed=settings.attribution_samples, **sizes)
    theirs = 3 * sum(steps.values())
    benchmark.extra_info |= {
        "peer": "the paper's scripts' way, extrapolated",
        "peer_seconds": theirs,
        "peer_steps_of_one_model": steps,
        "seconds": seconds,
        "where": dict(clock.seconds),
        "ratio": theirs / seconds,
        "n_prompts": len(prompts),
        "threads": torch.get_num_threads(),
    }
    assert len(verdicts) == 20
    assert sum(verdict is not None for verdict in verdicts) == (
        18 if full else 16
    )  # few prompts: two gate from more up

"""Layer integrated gradients against Captum's, at an equal or smaller completeness error; and in little memory."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients

from pytest_quantcheck.analyses.saliency import FLOOR, TOLERANCE, jaccard, salient
from pytest_quantcheck.measuring.attributing import Attributor
from pytest_quantcheck.measuring.plan import NoProgress
from pytest_quantcheck.models.encoding import encode
from pytest_quantcheck.models.gradients import float32_gradients, float32_gradients_in_pieces
from pytest_quantcheck.options.attribution import PAPER_NODES, AttributionMethod

RESOLVED = 1e-4
"""Completeness error that float32 can tell from none: log-probabilities around -10 are rounded by 1e-6 of that, and
the error is taken relative to `FLOOR` where the ends of the path differ by less."""


class Task:
    """Some prompts, a model in float32, its answers to them, and both ways to attribute those."""

    def __init__(self, loaded, prompts, n, nodes):
        self.loaded, self.nodes = loaded, nodes
        self.encoded = encode(loaded.tokenizer, prompts.texts[:n], chat=bool(prompts.chat))
        self.targets = {i: int(self.logits(torch.tensor([ids])).argmax()) for i, ids in enumerate(self.encoded)}

    @torch.no_grad()
    def logits(self, ids):
        """At the answer position."""
        return self.loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]

    def log_prob(self, ids, target):
        """Of the target, as a user of Captum writes it."""
        logits = self.loaded.model(input_ids=ids, use_cache=False).logits[:, -1]
        return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]

    def captum(self, layer, share=1):
        """Attributions (tokens, d) of one prompt in `share`, one at a time with all its nodes, as in the paper."""
        attribute = LayerIntegratedGradients(self.log_prob, self.loaded.neurons.activation(layer)).attribute
        found = []
        for i in range(0, len(self.targets), share):
            ids = torch.tensor([self.encoded[i]])
            values = attribute(
                ids,
                baselines=torch.zeros_like(ids),
                additional_forward_args=(torch.tensor([self.targets[i]]),),
                n_steps=self.nodes,
                method="gausslegendre",
            )
            found.append(values[0].detach())
        return found

    def ours(self, layers, tolerance, *, pieces=False):
        """The same, nodes added until the completeness error is within the tolerance.

        It is that of the whole path, as Captum's is; the gate asks it of all `pieces`.
        """
        attributor = Attributor(self.loaded, self.encoded, AttributionMethod(), tolerance=tolerance)
        if not pieces:
            rule = attributor._rule
            attributor._rule = replace(rule, checked=(2,) * len(rule.checked))
        return attributor.attribute(layers, self.targets, NoProgress())

    def error(self, layer, values):
        """Relative completeness error of Captum's attributions, the largest; its own `delta` is of another path."""
        share = len(self.targets) // len(values)
        return max(self._error(layer, i * share, found) for i, found in enumerate(values))

    def _error(self, layer, i, values):
        ids = torch.tensor([self.encoded[i]])
        seen = {}
        module = self.loaded.neurons.activation(layer)
        handle = module.register_forward_hook(lambda _m, _a, out: seen.setdefault("start", out.detach()))
        self.logits(torch.zeros_like(ids))
        handle.remove()
        ends = [self.logits(ids)]
        handle = module.register_forward_hook(lambda _m, _a, _out: seen["start"])
        ends.append(self.logits(ids))
        handle.remove()
        end, start = (float(logits.double().log_softmax(-1)[0, self.targets[i]]) for logits in ends)
        return abs(float(values.double().sum()) - (end - start)) / max(abs(end - start), FLOOR)


@pytest.fixture
def task(model, prompts, full):
    """Eight prompts on the 135M model, of which Captum is given two, or ten on the built-in one with fewer nodes."""
    return Task(model(), prompts(10), 8 if full else 10, PAPER_NODES if full else 24)


@pytest.fixture
def short(model, prompts, full):
    """The same, but four prompts on the built-in model, for tests that only take times."""
    return Task(model(), prompts(10), 8 if full else 4, PAPER_NODES if full else 24)


_FIRST = {}


def named_layer(task, name):
    """The number of the layer: `first` is the first where all prompts converge, looked for once for each task."""
    last = task.loaded.n_layers - 1
    key = last, len(task.targets)
    if name == "first" and key not in _FIRST:
        _FIRST[key] = next(n for n in range(last) if task.ours([n], TOLERANCE, pieces=True)[n].converged.all())
    return {"first": _FIRST.get(key), "middle": last // 2, "last": last}[name]


def overlap(saliency, values):
    """Mean Jaccard index of the salient neurons and those of Captum's attributions."""
    expected = [salient(v[None], torch.ones(1, len(v), dtype=torch.bool))[0].numpy() for v in values]
    obtained = saliency.salient[:: len(saliency.index) // len(values)]
    return float(jaccard(obtained, np.stack(expected)).mean())


@pytest.mark.minutes
@pytest.mark.benchmark(group="attribution")
@pytest.mark.parametrize("name", ["first", "middle", "last"])
def test_one_layer(task, race, full, matrix_rate, name):
    """One layer on its own, its forward pass included."""
    layer = named_layer(task, name)
    share = 4 if full else 1
    theirs = task.error(layer, task.captum(layer, share))
    tolerance = max(theirs, RESOLVED)
    found, others = race(
        lambda: task.ours([layer], tolerance)[layer],
        {f"captum, {task.nodes} steps": lambda: task.captum(layer, share)},
        rounds=3,
        warmup=0,
        share=share,
        floor=lambda found: operations(task, {layer: found}) / matrix_rate(),
        layer=layer,
        n_prompts=len(task.targets),
        dtype="float32",
    )
    race.info |= {"peer_error": theirs, "error": found.error.tolist(), "nodes": found.nodes.tolist()}
    race.info["overlap"] = overlap(found, next(iter(others.values())))
    assert np.median(found.error) <= tolerance  # float32 does not let every prompt come so far, Captum's neither
    assert race.info["overlap"] > 0.9  # a neuron next to 0.7 of the largest can tip


@pytest.mark.minutes
@pytest.mark.benchmark(group="attribution")
def test_three_layers(short, race, full, matrix_rate):
    """The first layer that converges, the middle and the last one, each as exact as Captum is there."""
    share = 4 if full else 1
    layers = [named_layer(short, name) for name in ("first", "middle", "last")]
    theirs = {layer: short.error(layer, short.captum(layer, share)) for layer in layers}
    found, _ = race(
        lambda: {layer: short.ours([layer], max(error, RESOLVED))[layer] for layer, error in theirs.items()},
        {f"captum, {short.nodes} steps": lambda: [short.captum(layer, share) for layer in layers]},
        rounds=1,
        warmup=0,
        share=share,
        floor=lambda found: operations(short, found) / matrix_rate(),
        layers=layers,
        n_prompts=len(short.targets),
        dtype="float32",
    )
    race.info |= {"peer_error": theirs, "error": {layer: f.error.tolist() for layer, f in found.items()}}
    race.info |= {"nodes": {layer: f.nodes.tolist() for layer, f in found.items()}}


@pytest.mark.minutes
@pytest.mark.benchmark(group="attribution")
def test_every_layer(short, race, full, matrix_rate):
    """All layers of the model, as the gate attributes them; Captum takes each in turn, and every third is timed."""
    share, apart = (8, 3) if full else (1, 1)
    layers = range(short.loaded.n_layers)
    found, _ = race(
        lambda: short.ours(layers, TOLERANCE, pieces=True),
        {f"captum, {short.nodes} steps": lambda: [short.captum(layer, share) for layer in layers[::apart]]},
        rounds=1,
        warmup=0,
        share=share * apart,
        floor=lambda found: operations(short, found) / matrix_rate(),
        n_layers=len(layers),
        n_prompts=len(short.targets),
        dtype="float32",
    )
    race.info |= {"converged": [int(f.converged.sum()) for f in found.values()]}


def operations(task, found):
    """Floating-point operations that no way around is known for: forward and backward through the blocks above.

    A block's forward pass takes two operations for each weight and token, the pass back to its input as many; each
    node of each layer takes both through all blocks above, and the forward pass of the prompts all blocks once.
    """
    blocks = task.loaded.neurons.blocks
    weights = sum(p.numel() for p in blocks[0].parameters() if p.dim() == 2)
    tokens = {i: len(ids) for i, ids in enumerate(task.encoded)}
    passes = sum(
        tokens[i] * nodes * 2 * (len(blocks) - 1 - layer)
        for layer, saliency in found.items()
        for i, nodes in zip(saliency.index.tolist(), saliency.nodes.tolist(), strict=True)
    )
    return 2 * weights * (passes + len(blocks) * sum(tokens.values()))


@pytest.mark.minutes
@pytest.mark.benchmark(group="attribution")
def test_little_memory(model, prompts, race, full):
    """Layer 2, the middle and the last of a bf16 model, one block in float32 at a time, against all of it at once.

    `mib`: how far either makes the process's memory rise at most.
    """
    loaded, texts = model(dtype="bf16"), prompts(10).texts[: 8 if full else 2]
    encoded = encode(loaded.tokenizer, texts, chat=False)
    targets, layers = dict.fromkeys(range(len(encoded)), 5), (2, loaded.n_layers // 2, loaded.n_layers - 1)

    def attributed(in_pieces):
        attributor = Attributor(loaded, encoded, AttributionMethod("fixed", 9), recompute=in_pieces)
        pieces = float32_gradients_in_pieces(loaded.model, loaded.neurons.blocks)
        with pieces if in_pieces else float32_gradients(loaded.model):
            return attributor.attribute(layers, targets, NoProgress())

    ways = {"in pieces": partial(attributed, True), "at once": partial(attributed, False)}
    rises = {name: rise_of_memory(way) for name, way in ways.items()}
    found, peers = race(ways["in pieces"], {"at once": ways["at once"]}, rounds=3, mib=rises)
    for layer, whole in peers["at once"].items():
        assert np.array_equal(found[layer].salient, whole.salient)
        assert np.array_equal(found[layer].error, whole.error)


def rise_of_memory(work):
    """How far this process's resident memory rises at most during some work, in MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it is now
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(name):
    """A line of this process's status, in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024

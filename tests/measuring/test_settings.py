"""What a plan asks for is what is measured, and measured twice it is the same."""

import numpy as np
import pytest
import torch

from pytest_quantcheck.measuring import NoProgress, Plan
from pytest_quantcheck.models import partial_forward
from pytest_quantcheck.models.gradients import all_recomputed, recomputed
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options.attribution import parse_attribution


@pytest.mark.parametrize("bits", ["reference", "int8", "nf4"])
def test_measured_twice_it_is_the_same_to_the_last_bit(
    run, loaded, quantized, prompts, reference, *, candidates, same, bits
):
    """Measuring is deterministic, and leaves the model as it was."""
    model = loaded if bits == "reference" else quantized[bits]
    expected = reference if bits == "reference" else candidates[bits]
    again = run(model, prompts, reference=None if bits == "reference" else reference)
    assert same(again, expected)


def test_off_attributes_nothing(run, loaded, prompts):
    """`off`: no saliency at any layer."""
    found = run(loaded, prompts, attribution=parse_attribution("off"))
    assert found.saliency == {}
    assert found.provenance.attribution == "off,samples=12"


def test_a_fixed_number_of_nodes_is_kept_to(run, loaded, prompts):
    """`nodes=6`: six nodes for every prompt of the sample at every layer, converged or not."""
    found = run(loaded, prompts, samples=4, attribution=parse_attribution("nodes=6"))
    assert set(found.saliency) == {0, 2, 5}
    for saliency in found.saliency.values():
        assert saliency.index.tolist() == list(range(4))
        assert set(saliency.nodes.tolist()) == {6}
    assert not found.saliency[0].converged.all()


@pytest.mark.parametrize("samples", [0, 5, 12])
def test_the_first_prompts_of_the_sample_are_attributed(run, loaded, prompts, samples):
    """As many prompts as asked for, from the first on."""
    found = run(loaded, prompts, layers=(5,), samples=samples)
    assert [saliency.index.tolist() for saliency in found.saliency.values()] == [list(range(samples))] * (samples > 0)


def test_the_references_answer_is_attributed_in_a_candidate(run, damaged, prompts, reference):
    """By default a flipped answer does not change the target; with `target=own` it does."""
    invert(damaged)
    shared = run(damaged, prompts, reference=reference)
    assert np.array_equal(shared.saliency[5].target, reference.answers.token[:12])
    assert not np.array_equal(shared.answers.token[:12], reference.answers.token[:12])
    own = run(damaged, prompts, reference=reference, attribution=parse_attribution("adaptive,target=own"))
    assert np.array_equal(own.saliency[5].target, own.answers.token[:12])


@torch.no_grad()
def invert(loaded):
    """Let the model say the opposite: the head's rows of True and False change places."""
    true, false = loaded.tokenizer.convert_tokens_to_ids(["True", "False"])
    weight = loaded.model.get_output_embeddings().weight
    weight[[true, false]] = weight[[false, true]]


def test_the_baseline_is_where_the_path_starts(run, loaded, prompts, reference):
    """From the zero vector other neurons are salient than from token id 0, and the record says which it was."""
    found = run(loaded, prompts, layers=(5,), attribution=parse_attribution("adaptive,baseline=zero"))
    assert "baseline=zero" in found.provenance.attribution
    assert "baseline=token" in reference.provenance.attribution
    assert found.saliency[5].converged.all()
    assert not np.array_equal(found.saliency[5].salient, reference.saliency[5].salient)


def test_a_layer_without_definition_in_the_reference_is_not_attributed(reference, candidates):
    """Where the reference does not converge, a candidate's attribution is not even tried."""
    assert not reference.saliency[0].converged.all()
    assert reference.saliency.keys() == {0, 2, 5}
    assert candidates["nf4"].saliency.keys() == {2, 5}


def test_a_reference_without_attribution_gives_none_to_a_candidate(run, loaded, quantized, prompts):
    """Nothing is attributed that there is nothing to compare with."""
    before = run(loaded, prompts, attribution=parse_attribution("off"))
    assert run(quantized["nf4"], prompts, reference=before).saliency == {}


@pytest.mark.parametrize(
    ("bits", "settings"),
    [("reference", {}), ("int8", {}), ("nf4", {}), ("reference", {"neurons": "model.layers.{}.mlp.act_fn"})],
)
def test_little_memory_attributes_the_same(run, prompts, monkeypatch, bits, settings):
    """With one block in float32 at a time; where the user named the neurons each node runs the whole model."""
    calls = []
    monkeypatch.setattr(
        partial_forward, "recomputed", lambda *args, **kwargs: calls.append(1) or recomputed(*args, **kwargs)
    )
    monkeypatch.setattr(
        partial_forward, "all_recomputed", lambda blocks: calls.extend(blocks) or all_recomputed(blocks)
    )
    with load(Source("builtin", dtype="bf16", **settings), bits) as model:
        asked = {"layers": (2, 5), "samples": 4, "attribution": parse_attribution("nodes=4")}
        expected = run(model, prompts, **asked)
        assert not calls
        model.attribution_memory = 2**20
        obtained = run(model, prompts, **asked)
    assert calls
    for layer, found in expected.saliency.items():
        assert np.array_equal(obtained.saliency[layer].salient, found.salient)
        assert np.array_equal(obtained.saliency[layer].error, found.error)


@pytest.mark.parametrize(("layers", "expected"), [("paper", (0, 2, 5)), ("all", (0, 1, 2, 3, 4, 5)), ((-1, 1), (1, 5))])
def test_the_layers_asked_for_are_measured(run, loaded, prompts, layers, expected):
    """Activations of exactly those layers, and the provenance names them."""
    found = run(loaded, prompts, layers=layers, attribution=parse_attribution("off"))
    assert tuple(found.activations) == expected
    assert found.provenance.layers == expected


def test_the_seed_chooses_the_neurons_followed(run, loaded, prompts, reference):
    """Another seed follows other neurons for the intervals, and changes nothing else."""
    found = run(loaded, prompts, seed=3, attribution=parse_attribution("off"))
    one, two = found.activations[2], reference.activations[2]
    assert len(one.sample) == len(set(one.sample.tolist())) == 256
    assert not np.array_equal(one.sample, two.sample)
    assert np.array_equal(one.correlations.comoment, two.correlations.comoment)


@pytest.mark.parametrize(("asked", "taken"), [("auto", 384), ("all", 384), (300, 300)])
def test_as_many_neurons_are_correlated_as_asked_for(run, loaded, prompts, reference, *, asked, taken):
    """All of a layer as narrow as this, or a sample; the record says how many, and extremes are of all."""
    found = run(loaded, prompts, redundancy_neurons=asked, attribution=parse_attribution("off"))
    assert found.provenance.redundancy_neurons == taken
    for layer, activations in found.activations.items():
        assert activations.correlations.comoment.shape == (taken, taken)
        assert np.array_equal(activations.maximum, reference.activations[layer].maximum)


def test_a_candidate_correlates_the_neurons_of_its_reference(run, loaded, quantized, prompts):
    """Whatever the candidate's own plan says: others could not be compared."""
    off = parse_attribution("off")
    before = run(loaded, prompts, redundancy_neurons=300, attribution=off)
    after = run(quantized["nf4"], prompts, reference=before, attribution=off)
    assert after.provenance.redundancy_neurons == 300
    for layer, activations in before.activations.items():
        assert np.array_equal(after.activations[layer].correlated, activations.correlated)


def test_other_batches_measure_the_same(run, loaded, prompts, reference):
    """Rearranged, every prompt is measured once and in its place, to the rounding of other padding."""
    plan = Plan().rearranged()
    found = run(loaded, prompts, batch_size=plan.batch_size, shuffle=plan.shuffle, attribution=parse_attribution("off"))
    assert np.array_equal(found.answers.index, reference.answers.index)
    # float32 sums over other padding
    np.testing.assert_allclose(found.answers.confidence, reference.answers.confidence, rtol=0, atol=1e-4)
    assert not np.array_equal(found.answers.confidence, reference.answers.confidence)


@pytest.mark.parametrize(("size", "other"), [(1, 2), (2, 1), (3, 1), (16, 5)])
def test_rearranged_batches_have_another_size(size, other):
    """Smaller, so that they fit where the others do; one prompt has only two for company."""
    assert Plan(batch_size=size).rearranged().batch_size == other


def test_progress_counts_every_prompt_of_every_phase(run, loaded, prompts):
    """Each phase says how many prompts it has, and has advanced by just as many when it is over."""
    phases = []

    class Listener(NoProgress):
        def start(self, label, total, done=0):
            phases.append([label, total, done])

        def advance(self, n=1):
            phases[-1][2] += n

        def finish(self):
            phases[-1].append("finished")

    run(loaded, prompts, layers=(2, 5), progress=Listener())
    assert phases == [
        ["measuring", 40, 40, "finished"],
        ["attributing", 12, 12, "finished"],
    ]

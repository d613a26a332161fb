"""Scored tokens: what both models think of what the reference writes, against plain code."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.divergence import kl_on_support
from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.errors import ComparisonError, NonFiniteError
from pytest_quantcheck.measuring.merging import merge
from pytest_quantcheck.measuring.scored import SUPPORT, ScoredCollector
from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.prompt_cache import PromptCache, new_cache, read_prompts
from pytest_quantcheck.models.scored_logits import ScoredPart, head_input
from pytest_quantcheck.options import AttributionMethod
from tests.bits import bits_of

MOST = 5
NOISE = 1e-4
"""Nats by which left padding moves a float32 log-probability, with room: 2e-5 were measured."""

FLOAT16 = 3e-4
"""By which rounding a log-probability to float16 moves a probability at most: p * -log(p) is 0.37 at most."""


@pytest.fixture(scope="module")
def reference(run, loaded, prompts):
    """The reference, and what it writes."""
    return run(loaded, prompts, layers=(2,), samples=1, continuation=MOST)


@pytest.fixture(scope="module")
def candidate(run, quantized, prompts, reference):
    """NF4 on what the reference wrote."""
    return run(quantized["nf4"], prompts, layers=(2,), samples=1, continuation=MOST, reference=reference)


@torch.no_grad()
def plain(loaded, prompts, scored):
    """Log-probabilities (t, vocabulary) float64 of every scored token, prompt by prompt without padding."""
    found = []
    for i in scored.index.tolist():
        ids = loaded.tokenizer(prompts.texts[i])["input_ids"]
        tokens = scored.token[scored.of(i)].tolist()
        logits = loaded.model(input_ids=torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
        found.append(logits.double().log_softmax(-1).numpy())
    return np.concatenate(found)


def test_reference_writes_its_most_probable_tokens(loaded, prompts, reference):
    """Up to its end token, which is scored too."""
    scored, expected = reference.scored, plain(loaded, prompts, reference.scored)
    every = np.arange(len(scored.token))
    assert scored.index.tolist() == reference.answers.index.tolist()
    assert (expected.max(axis=1) - expected[every, scored.token] < NOISE).all()
    ends = scored.token == loaded.model.generation_config.eos_token_id
    assert ends.any()
    assert (scored.lengths[[i for i, n in enumerate(scored.lengths) if n < MOST]] >= 1).all()
    for i in scored.index.tolist():
        part = ends[scored.of(i)]
        assert not part[:-1].any()
        assert part[-1] or len(part) == MOST


def test_reference_is_scored_as_plain_code_does(loaded, prompts, reference):
    """At each scored token: its log-probability, the best token, and the best ones together."""
    check(reference.scored, plain(loaded, prompts, reference.scored), NOISE)


def test_candidate_is_scored_as_plain_code_does(quantized, prompts, reference, candidate):
    """On the tokens that the reference wrote, at its best ones; NF4 computes in bfloat16."""
    assert np.array_equal(candidate.scored.token, reference.scored.token)
    assert np.array_equal(candidate.scored.support, reference.scored.support)
    check(candidate.scored, plain(quantized["nf4"], prompts, reference.scored), 0.05)


def check(scored, expected, noise):
    """Compare scored tokens with log-probabilities (t, vocabulary) of plain code."""
    every = np.arange(len(scored.token))
    np.testing.assert_allclose(scored.log_prob, expected[every, scored.token], rtol=0, atol=noise)
    assert (expected.max(axis=1) - expected[every, scored.top] < noise).all()
    kept = np.take_along_axis(expected, scored.support.astype(np.int64), axis=1)
    np.testing.assert_allclose(np.exp(scored.log_probs), np.exp(kept), rtol=0, atol=noise + FLOAT16)
    np.testing.assert_allclose(np.exp(scored.rest), 1 - np.exp(kept).sum(axis=1), rtol=0, atol=noise)
    assert scored.support.shape[1] == min(SUPPORT, expected.shape[1])


def test_divergence_is_nearly_that_of_the_whole_vocabulary(loaded, quantized, prompts, reference, candidate):
    """Never more, and hardly less."""
    one, other = (plain(model, prompts, reference.scored) for model in (loaded, quantized["nf4"]))
    whole = (np.exp(one) * (one - other)).sum(axis=1)
    mine, its = reference.scored, candidate.scored
    kept = kl_on_support(mine.log_probs, mine.rest, its.log_probs, its.rest)
    assert kept.mean() == pytest.approx(whole.mean(), rel=0.1)


def test_shards_merge_into_the_whole(run, loaded, prompts, reference):
    """Batches are the same, and so is every bit."""
    sharded = run(loaded, prompts, layers=(2,), samples=1, continuation=MOST, shard_size=16)
    assert bits_of(sharded.scored) == bits_of(reference.scored)
    parts = [run(loaded, prompts, layers=(2,), samples=1, continuation=MOST, shard=(k, 3)) for k in (3, 1, 2)]
    assert bits_of(merge(parts).scored) == bits_of(reference.scored)
    with pytest.raises(ComparisonError, match="scored tokens"):
        merge([parts[0], replace(parts[1], scored=None)])


@torch.no_grad()
def test_loaded_model_reads_its_prompts_once(loaded, quantized, prompts):
    """And its head runs on parts: what is hooked into a loaded model does not hide the head's input."""
    encoded = loaded.tokenizer(list(prompts.texts))["input_ids"]
    batch = collate(encoded, range(4), pad=loaded.tokenizer.pad_token_id, device=loaded.device)
    for model in (loaded.model, *(one.model for one in quantized.values())):
        assert isinstance(read_prompts(model, batch, new_cache(model)), PromptCache)
        assert head_input(model, batch.inputs(), 3)[0] is not None


def test_continuation_changes_nothing_else(run, loaded, prompts, reference):
    """Answers and activations are those without, to the last bit; at 0 nothing is scored."""
    without = run(loaded, prompts, layers=(2,), samples=1, continuation=0)
    assert without.scored is None
    assert bits_of(without.answers) == bits_of(reference.answers)
    assert bits_of(without.activations) == bits_of(reference.activations)


def test_continuation_ends_with_the_context(run, damaged, prompts, monkeypatch):
    """No further token is read than the model's context holds."""
    lengths = [len(ids) for ids in damaged.tokenizer(list(prompts.texts))["input_ids"]]
    damaged.model.config.max_position_embeddings = max(lengths) + 1
    damaged.model.generation_config.eos_token_id = None
    damaged.model.config.eos_token_id = None
    found = run(damaged, prompts, layers=(2,), samples=1, continuation=MOST).scored
    reads = {i: lengths[i] + int(n) - 1 for i, n in zip(found.index.tolist(), found.lengths, strict=True)}
    assert max(reads.values()) == max(lengths) + 1


def test_reference_that_ends_at_once_is_named(run, damaged, quantized, prompts):
    """Every token ends its text, as with a template that lets a model end: there is no text to compare."""
    damaged.model.generation_config.eos_token_id = list(range(damaged.model.config.vocab_size))
    asked = {"layers": (2,), "samples": 1, "attribution": AttributionMethod("off"), "continuation": MOST}
    ended = run(damaged, prompts, **asked)
    candidate = run(quantized["nf4"], prompts, **asked, reference=ended)
    assert set(ended.scored.lengths.tolist()) == {1}
    says = (
        "warning: after each of 40 prompts the reference wrote one token and ended, so that metrics of scored tokens "
    )
    notes = compare(ended, candidate, IntervalSettings(draws=20)).notes
    assert any(note == says + "see no text: look at the template ('raw:{prompt}')" for note in notes)


def test_logits_that_are_no_numbers_are_refused(prompts):
    """The rows of their prompts are named."""
    collector = ScoredCollector(prompts, 2, MOST, reference=None)
    logits = torch.zeros(3, 100)
    logits[2, 7] = torch.inf
    collector.add([4, 9], [[1, 2], [3]], [ScoredPart(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), logits)])
    with pytest.raises(NonFiniteError, match=f"1 scored tokens of builtin .* in rows {prompts.rows[9]}\\)"):
        collector.result()

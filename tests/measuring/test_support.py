"""How much of the reference's answer distribution is kept, and that a candidate is read at the same tokens."""

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from pytest_quantcheck.measuring import answers
from pytest_quantcheck.options.attribution import AttributionMethod

OFF = AttributionMethod("off")


def test_a_small_vocabulary_is_kept_whole(loaded, prompts, reference, logits):
    """256 tokens fit: nothing is in the rest, and the distribution is that of plain transformers code."""
    found = reference.answers
    expected = log_softmax(logits(loaded, prompts), axis=1)
    assert found.exact
    assert np.isneginf(found.rest).all()
    assert found.support.shape == expected.shape
    picked = np.take_along_axis(expected, found.support, axis=1)
    np.testing.assert_allclose(found.log_probs, picked, rtol=0, atol=1e-4)  # float32 logits of size 20, padded


def test_of_a_large_one_the_most_probable_are_kept(run, loaded, prompts, logits, monkeypatch):
    """With room for five tokens they are the five most probable, and the rest is the mass of all others."""
    monkeypatch.setattr(answers, "SUPPORT", 5)
    found = run(loaded, prompts, attribution=OFF).answers
    expected = np.sort(log_softmax(logits(loaded, prompts), axis=1), axis=1)[:, ::-1]
    assert not found.exact
    np.testing.assert_allclose(found.log_probs, expected[:, :5], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.rest, logsumexp(expected[:, 5:], axis=1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kept", [5, 1024])
def test_a_candidate_is_read_at_the_references_tokens(run, loaded, quantized, prompts, logits, *, monkeypatch, kept):
    """The candidate's log-probabilities are of the reference's most probable tokens, not of its own."""
    monkeypatch.setattr(answers, "SUPPORT", kept)
    before = run(loaded, prompts, attribution=OFF)
    found = run(quantized["nf4"], prompts, attribution=OFF, reference=before).answers
    expected = log_softmax(logits(quantized["nf4"], prompts), axis=1)
    assert np.array_equal(found.support, before.answers.support)
    picked = np.take_along_axis(expected, found.support, axis=1)
    np.testing.assert_allclose(found.log_probs, picked, rtol=0, atol=1e-3)  # NF4 kernels differ by batch size
    assert found.exact == before.answers.exact

"""What a comparison holds beside its estimates, for figures and tables: bins, convergence, flips."""

import numpy as np
import pytest

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.comparing.answer_estimates import BINS
from pytest_quantcheck.models.encoding import token_texts


def test_reliability_is_that_of_the_ace(comparison):
    """The bins hold every prompt once, and the unweighted mean of their gaps is the ACE of each model."""
    (drift,) = comparison.of("ace_drift")
    for name in ("reference", "candidate"):
        bins = comparison.reliability[name]
        assert (len(bins), sum(one.count for one in bins)) == (BINS, comparison.n_prompts)
        assert np.mean([abs(one.accuracy - one.confidence) for one in bins]) == pytest.approx(getattr(drift, name))


def test_flips_are_the_prompts_whose_answer_changed(comparison, reference, candidate):
    """Each with both models' own answers, confidences and correctness, in the order of the prompt set."""
    before, after = reference.answers, candidate.answers
    changed = np.flatnonzero(before.token != after.token)
    assert [flip.index for flip in comparison.flips] == changed.tolist()
    assert len(comparison.flips) == round(comparison.of("flip_rate")[0].value * comparison.n_prompts)
    for flip, i in zip(comparison.flips, changed, strict=True):
        for said, model in ((flip.reference, reference), (flip.candidate, candidate)):
            assert said.text == model.texts[int(model.answers.token[i])]
            assert (said.confidence, said.correct) == (model.answers.confidence[i], model.answers.correct[i])


def test_texts_read_as_the_tokenizer_says(candidate, models):
    """Every answer of a measurement, and nothing else where no token was scored, has a text."""
    tokenizer = models["reference"].tokenizer
    assert candidate.texts == token_texts(tokenizer, sorted(set(candidate.answers.token.tolist())))


def test_flip_without_a_text_names_the_token(reference, measured, changed, sampling):
    """A measurement made by hand need not know what its tokens read as."""
    other = changed(measured["nf4"], answers={"token": reference.answers.token + 1})
    assert compare(reference, other, sampling).flips[0].candidate.text == f"token {reference.answers.token[0] + 1}"


def test_convergence_counts_what_was_attributed(reference, measured, sampling):
    """Both models where both were attributed, the reference alone where it did not converge."""
    found = compare(reference, measured["nf4"], sampling).convergence
    assert found.keys() == reference.saliency.keys()
    assert set(found[0]) == {"reference"}
    assert found[0]["reference"].converged == 0
    last = found[max(found)]["candidate"]
    saliency = measured["nf4"].saliency[max(found)]
    assert (last.attributed, last.converged) == (len(saliency.index), saliency.converged.sum())
    assert last.median_nodes == np.median(saliency.nodes)


def test_infinite_error_has_no_median(reference, measured, changed, sampling):
    """A completeness error that is not finite is left out: None, never a number that JSON cannot hold."""
    layer = max(reference.saliency)
    error = np.full_like(reference.saliency[layer].error, np.inf)
    broken = changed(reference, saliency=(layer, {"error": error}))
    assert compare(broken, measured["nf4"], sampling).convergence[layer]["reference"].median_error is None

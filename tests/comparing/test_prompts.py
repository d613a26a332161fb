"""The metrics of the answers, each against the formula written out."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from pytest_quantcheck.analyses.draws import half_samples
from pytest_quantcheck.analyses.resampling import paired_shares, share, studentised_bootstrap
from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.measuring import Plan, answers, measure
from pytest_quantcheck.options.attribution import AttributionMethod

EXACT = 1e-12
"""Float64 sums of sixty numbers of size 1."""

OFF = Plan(attribution=AttributionMethod("off"))


def ace(confidence, correct):
    """Adaptive calibration error with a loop; prompts that are as confident must be as right."""
    ranked = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    assert len(set(ranked)) == len({level for level, _ in ranked})
    size, larger = divmod(len(ranked), 10)
    gaps, start = [], 0
    for number in range(10):
        part = ranked[start : start + size + (number < larger)]
        gaps.append(abs(sum(y for _, y in part) / len(part) - sum(c for c, _ in part) / len(part)))
        start += len(part)
    return sum(gaps) / 10


def folded(low, high):
    """The interval of the absolute value."""
    return (0.0, max(-low, high)) if low <= 0 <= high else tuple(sorted((abs(low), abs(high))))


def test_accuracy_drop_is_the_references_accuracy_less_the_candidates(reference, candidate, comparison):
    """Positive when the candidate is worse."""
    (found,) = comparison.of("accuracy_drop")
    own = [float(np.mean(model.answers.correct)) for model in (reference, candidate)]
    assert (found.reference, found.candidate) == pytest.approx(own, abs=EXACT)
    assert found.value == pytest.approx(own[0] - own[1], abs=EXACT)


def test_a_worse_candidate_has_a_positive_drop(reference, changed, sampling):
    """Everything wrong: the drop is the reference's whole accuracy; and one that gains has a negative one."""
    wrong = changed(reference, answers={"correct": np.zeros(60, dtype=bool)})
    right = float(np.mean(reference.answers.correct))
    assert compare(reference, wrong, sampling).of("accuracy_drop")[0].value == pytest.approx(right, abs=EXACT)
    better = changed(reference, answers={"correct": np.ones(60, dtype=bool)})
    assert compare(reference, better, sampling).of("accuracy_drop")[0].value == pytest.approx(right - 1, abs=EXACT)


def test_confidence_drift_is_absolute(reference, candidate, comparison):
    """The size of the change of the mean confidence, whichever way it went."""
    (found,) = comparison.of("confidence_drift")
    change = np.mean(candidate.answers.confidence) - np.mean(reference.answers.confidence)
    assert found.value == pytest.approx(abs(change), abs=EXACT)


def test_ace_drift_is_the_change_of_the_direct_formula(reference, candidate, comparison):
    """Both models' ACE by a loop over ten bins in float64, and the size of their difference."""
    (found,) = comparison.of("ace_drift")
    own = [ace(model.answers.confidence, model.answers.correct) for model in (reference, candidate)]
    assert (found.reference, found.candidate) == pytest.approx(own, abs=EXACT)
    assert found.value == pytest.approx(abs(own[1] - own[0]), abs=EXACT)


@pytest.mark.parametrize("name", ["int8", "nf4", "damaged"])
def test_kl_is_that_of_the_whole_distributions(models, prompts, reference, measured, *, sampling, name):
    """With a vocabulary of 256 it is scipy's relative entropy of both models' softmax, without a word about bounds."""
    comparison = compare(reference, measured[name], sampling)
    (found,) = comparison.of("kl_divergence")
    expected = full_kl(models["reference"], models[name], prompts)
    assert found.value == pytest.approx(expected.mean(), abs=1e-5)  # float32 logits; nats
    assert found.details == pytest.approx({"median": np.median(expected), "largest": expected.max()}, abs=1e-4)
    assert not any("lower bound" in note for note in comparison.notes)


def test_with_part_of_the_vocabulary_it_is_a_bound_and_says_so(models, prompts, sampling, monkeypatch):
    """Over the three most probable tokens and the rest the divergence cannot be more; the notes say over how many."""
    monkeypatch.setattr(answers, "SUPPORT", 3)
    before = measure(models["reference"], prompts, OFF, model="builtin")
    after = measure(models["nf4"], prompts, OFF, model="builtin", reference=before)
    comparison = compare(before, after, sampling)
    expected = full_kl(models["reference"], models["nf4"], prompts).mean()
    assert 0 < comparison.of("kl_divergence")[0].value < expected
    assert any("KL divergence is a lower bound" in note and "3 most probable" in note for note in comparison.notes)


@torch.no_grad()
def full_kl(before, after, prompts):
    """KL of each prompt from plain forward passes in the measurement's batches, whole vocabulary, float64."""
    rows = [before.tokenizer(text)["input_ids"] for text in prompts.texts]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found = np.empty(len(rows))
    for start in range(0, len(rows), 16):
        part = order[start : start + 16]
        inputs = before.tokenizer.pad({"input_ids": [rows[i] for i in part]}, return_tensors="pt")
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"position_ids": positions}
        p, q = (softmax(m.model(**inputs).logits[:, -1].double().numpy(), axis=1) for m in (before, after))
        found[part] = rel_entr(p, q).sum(axis=1)
    return found


def test_flip_rate_counts_other_answers(reference, candidate, comparison):
    """The share of prompts with another answer, and beside it which went wrong and which came right."""
    (found,) = comparison.of("flip_rate")
    before, after = reference.answers, candidate.answers
    flips = list(zip(before.token, after.token, before.correct, after.correct, strict=True))
    assert found.value == pytest.approx(sum(one != two for one, two, _, _ in flips) / 60, abs=EXACT)
    assert found.details["right_to_wrong"] == pytest.approx(sum(r and not s for *_, r, s in flips) / 60, abs=EXACT)
    assert found.details["wrong_to_right"] == pytest.approx(sum(s and not r for *_, r, s in flips) / 60, abs=EXACT)


def test_flips_in_both_directions_do_not_cancel(reference, changed, sampling):
    """Four answers go wrong and two come right: accuracy falls by two prompts, and six answers flipped."""
    before = reference.answers
    chosen = np.concatenate([np.flatnonzero(before.correct)[:4], np.flatnonzero(~before.correct)[:2]])
    token, correct = before.token.copy(), before.correct.copy()
    token[chosen] += 1
    correct[chosen] = ~correct[chosen]
    found = compare(reference, changed(reference, answers={"token": token, "correct": correct}), sampling)
    assert found.of("accuracy_drop")[0].value == pytest.approx(2 / 60, abs=EXACT)
    assert found.of("flip_rate")[0].value == pytest.approx(6 / 60, abs=EXACT)
    assert found.of("flip_rate")[0].details == pytest.approx({"right_to_wrong": 4 / 60, "wrong_to_right": 2 / 60})


def test_intervals_of_drifts_are_folded(reference, candidate, comparison, sampling):
    """The drift's interval is that of the change prompt by prompt, folded at 0."""
    change = candidate.answers.confidence - reference.answers.confidence
    signed = studentised_bootstrap(change, draws=sampling.draws, seed=sampling.seed)
    low, high = folded(signed.low, signed.high)
    (found,) = comparison.of("confidence_drift")
    assert (found.low, found.high) == pytest.approx((min(low, found.value), max(high, found.value)), abs=EXACT)


def test_the_interval_of_ace_drift_is_that_of_whole_recalculations(reference, candidate, comparison, sampling):
    """Every half's prompts are sorted and binned anew in both models; spread and bias of the change make its ends."""
    answers = [(model.answers.confidence, model.answers.correct) for model in (reference, candidate)]
    value, *changes = (
        ace(*(column[rows] for column in answers[1])) - ace(*(column[rows] for column in answers[0]))
        for rows in (np.arange(60), *halves(sampling, 60))
    )
    bias, half = (np.mean(changes) - value) / (2**0.5 - 1), 1.959964 * np.std(changes)
    low, high = folded(value - max(bias, 0) - half, value - min(bias, 0) + half)
    (found,) = comparison.of("ace_drift")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def halves(sampling, n):
    """The draws of half of the prompts."""
    for counts in half_samples(n, sampling.draws, sampling.seed):
        yield from map(np.flatnonzero, counts)


def test_counts_have_intervals_of_counts(reference, candidate, comparison):
    """Accuracy drop and flip rate: what was lost and won, and how many answers are others."""
    before, after = reference.answers, candidate.answers
    lost, won = (before.correct & ~after.correct).sum(), (~before.correct & after.correct).sum()
    for metric, expected in (
        ("accuracy_drop", paired_shares(lost, won, 60)),
        ("flip_rate", share((before.token != after.token).sum(), 60)),
    ):
        (found,) = comparison.of(metric)
        assert (found.low, found.high) == (expected.low, expected.high)


def test_too_few_prompts_to_halve_leave_everything_possible(reference, measured, models, prompts, sampling):
    """Of 19 prompts a half cannot fill ten bins: ACE drift has a value, and an interval that decides nothing."""
    before = measure(models["reference"], prompts, OFF, model="builtin", index=list(range(19)))
    after = measure(models["nf4"], prompts, OFF, model="builtin", index=list(range(19)), reference=before)
    (found,) = compare(before, after, sampling).of("ace_drift")
    assert (found.low, found.high, found.method) == (0, 1, "none below 20 prompts")
    assert 0 < found.value < 1


@pytest.mark.parametrize("metric", ["flip_rate", "kl_divergence", "redundancy_change"])
def test_a_higher_level_makes_wider_intervals(reference, measured, metric):
    """The level asked for is the interval's, and the estimate says which it was."""
    levels = (0.5, 0.8, 0.99)
    pairs = (compare(reference, measured["nf4"], IntervalSettings(confidence=level, draws=400)) for level in levels)
    found = [comparison.of(metric)[-1] for comparison in pairs]
    assert tuple(estimate.confidence for estimate in found) == levels
    widths = [estimate.high - estimate.low for estimate in found]
    assert 0 < widths[0] < widths[1] < widths[2]


def test_fewer_prompts_than_bins_have_no_calibration(models, prompts, sampling):
    """Nine prompts cannot fill ten bins: ACE drift is unmeasured with the reason, the other metrics are there."""
    before = measure(models["reference"], prompts, OFF, model="builtin", index=list(range(9)))
    after = measure(models["nf4"], prompts, OFF, model="builtin", index=list(range(9)), reference=before)
    comparison = compare(before, after, sampling)
    (found,) = comparison.of("ace_drift")
    assert found.value is None
    assert found.reason == "10 bins need as many prompts, there are 9"
    assert comparison.of("flip_rate")[0].n_prompts == 9


def test_one_prompt_that_moved_alone_gives_no_negative_divergence(reference, changed, sampling):
    """The bootstrap's lower end is below 0 there, and no divergence is: the interval begins at 0."""
    log_probs = reference.answers.log_probs.copy()
    log_probs[3] = log_probs[3][::-1]
    (found,) = compare(reference, changed(reference, answers={"log_probs": log_probs}), sampling).of("kl_divergence")
    alone = np.arange(60) == 3
    assert studentised_bootstrap(60 * found.value * alone, draws=sampling.draws, seed=sampling.seed).low < 0
    assert found.low == 0 < found.value < found.high


def test_an_impossible_answer_is_an_infinite_divergence(reference, changed, sampling):
    """A candidate that rules out what the reference holds possible: KL is unmeasured, never a number."""
    log_probs = reference.answers.log_probs.copy()
    log_probs[3, 200] = -np.inf
    impossible = changed(reference, answers={"log_probs": log_softmax(log_probs, axis=1)})
    (found,) = compare(reference, impossible, sampling).of("kl_divergence")
    assert found.value is None
    assert "infinite" in found.reason

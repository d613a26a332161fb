"""KL divergence over a support, and the log-probabilities it is made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, rel_entr

from pytest_quantcheck.analyses.divergence import kl_on_support, log_probs_at, top_log_probs

fresh = settings(max_examples=60)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@st.composite
def two_models(draw):
    """Logits of two models on a few prompts, (n, vocabulary) float32, from flat to very peaked."""
    shape = draw(st.integers(1, 6)), draw(st.integers(2, 200))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([0.01, 1.0, 20.0]))
    reference = generator.normal(size=shape) * scale
    return reference.astype(np.float32), (reference + generator.normal(size=shape)).astype(np.float32)


def stored(reference, candidate, k):
    """Return what two measurements hold: both models' log-probabilities at the reference's top k, as float32."""
    support, log_probs, rest = top_log_probs(torch.from_numpy(reference), k)
    other = log_probs_at(torch.from_numpy(candidate), support)
    return tuple(part.numpy() for part in (log_probs, rest, *other))


def full_kl(reference, candidate):
    """KL over the whole vocabulary in float64."""
    p, q = (np.exp(log_softmax(logits.astype(np.float64), axis=1)) for logits in (reference, candidate))
    return rel_entr(p, q).sum(axis=1)


@fresh
@given(two_models())
def test_on_the_whole_vocabulary_it_is_the_full_divergence(models):
    """An exhaustive support loses nothing; float32 log-probabilities of up to -90 carry errors near 1e-5."""
    np.testing.assert_allclose(kl_on_support(*stored(*models, 10**6)), full_kl(*models), rtol=1e-5, atol=2e-5)


@fresh
@given(two_models(), st.integers(1, 50))
def test_on_a_support_it_is_a_lower_bound(models, k):
    """Merging the other tokens never adds divergence, and the result is never negative."""
    obtained = kl_on_support(*stored(*models, k))
    assert obtained.dtype == np.float64
    assert np.all(obtained >= 0)
    assert np.all(obtained <= full_kl(*models) * (1 + 1e-5) + 2e-5)


@fresh
@given(two_models(), st.integers(1, 50))
def test_equal_models_do_not_diverge(models, k):
    """The same stored values give exactly zero, whatever their rounding."""
    log_probs, rest, *_ = stored(*models, k)
    assert np.all(kl_on_support(log_probs, rest, log_probs, rest) == 0)


def test_stored_rounding_of_the_total_does_not_count():
    """Distributions that add up to 1 only to rounding are compared as if they did."""
    reference, candidate, rest = np.log([[0.5, 0.3]]), np.log([[0.6, 0.2]]), np.log([0.2])
    expected = kl_on_support(reference, rest, candidate, rest)
    shifted = kl_on_support(reference + 4e-4, rest + 4e-4, candidate - 3e-4, rest - 3e-4)
    np.testing.assert_allclose(shifted, expected, rtol=1e-12)


def test_rounding_to_float16_is_no_divergence():
    """It moves the total of 64 tokens by up to 0.002, and hardly what two models differ by."""
    random = np.random.default_rng(0)
    one, other = (np.log(random.dirichlet(np.full(65, 30.0), 100)) for _ in range(2))
    rounded = [whole[:, :64].astype(np.float16) for whole in (one, other)]
    exact = kl_on_support(one[:, :64], one[:, 64], other[:, :64], other[:, 64])
    found = kl_on_support(rounded[0], one[:, 64], rounded[1], other[:, 64])
    np.testing.assert_allclose(found, exact, rtol=5e-3)
    assert kl_on_support(rounded[0], one[:, 64], rounded[0], one[:, 64]).max() == 0
    with pytest.raises(ValueError, match="add up to 1"):
        kl_on_support(one[:, :64].astype(np.float16) - np.float16(0.1), one[:, 64], other[:, :64], other[:, 64])


def test_hand_computed_with_impossible_tokens():
    """A token impossible in the reference contributes nothing, even where it is impossible in both."""
    reference, candidate = np.log([[0.5, 0.5, 1e-300]]), np.log([[0.25, 0.75, 1e-300]])
    reference[0, 2] = candidate[0, 2] = -np.inf
    expected = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    obtained = kl_on_support(reference, [-np.inf], candidate, [-np.inf])
    assert obtained == pytest.approx([expected], abs=1e-15)


def test_a_candidate_that_rules_out_the_possible_is_refused_with_its_rows():
    """An infinite divergence is an error that names the rows, not a number."""
    fine, ruled_out = np.log([0.5]), [-np.inf]
    with pytest.raises(ValueError, match=r"in 2 of 3 rows \(0, 2\)"):
        kl_on_support([fine] * 3, list(np.log([0.5] * 3)), [ruled_out, fine, ruled_out], [0.0, np.log(0.5), 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.5, -9.0])
@pytest.mark.parametrize("whose", ["reference", "candidate"])
def test_what_is_no_distribution_is_refused(bad, whose):
    """NaN, infinity and parts that do not add up to 1 are named by model and row."""
    fine = [np.log([[0.5]]), np.log([0.5])]
    broken = [np.array([[bad]]), np.log([0.5])]
    with pytest.raises(ValueError, match=rf"log-probabilities of the {whose} .* rows \(0\)"):
        kl_on_support(*(broken + fine if whose == "reference" else fine + broken))


def test_shapes_that_differ_are_refused():
    """Both models are read on one support, with one rest a prompt."""
    half = np.log([[0.5]])
    with pytest.raises(ValueError, match=r"\(1, 1\) and \(2,\)"):
        kl_on_support(half, np.log([0.5, 0.5]), half, np.log([0.5]))
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        kl_on_support(half, np.log([0.5]), np.log([[0.25, 0.25]]), np.log([0.5]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probs_of_any_dtype_are_computed_in_float32_at_least(dtype):
    """Values agree with float64 NumPy on the logits as they are in their own dtype."""
    logits = (torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    support, log_probs, rest = top_log_probs(logits, 20)
    exact = log_softmax(logits.double().numpy(), axis=1)
    others = exact.copy()
    np.put_along_axis(others, support.numpy(), -np.inf, axis=1)
    assert log_probs.dtype == rest.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert support.dtype == torch.int32
    tolerance = 1e-12 if dtype == torch.float64 else 5e-6  # float32 rounds numbers near 20 by 1e-6
    np.testing.assert_allclose(log_probs.numpy(), -np.sort(-exact, axis=1)[:, :20], atol=tolerance)
    np.testing.assert_allclose(rest.numpy(), logsumexp(others, axis=1), atol=tolerance)


@st.composite
def logits_in_any_dtype(draw):
    """Logits (n, vocabulary) of any dtype, flat to very peaked, many of them equal where they are whole numbers."""
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 200))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = generator.normal(size=shape) * draw(st.sampled_from([0.01, 1.0, 20.0]))
    values = values.round() if draw(st.booleans()) else values
    return torch.from_numpy(values).to(draw(st.sampled_from(DTYPES)))


def exact_at(logits, support):
    """Log-probabilities at a support and that of all other tokens, in float64, from the logits as they are."""
    exact = log_softmax(logits.double().numpy(), axis=1)
    others = exact.copy()
    np.put_along_axis(others, support, -np.inf, axis=1)
    with np.errstate(divide="ignore"):  # where no other token is left
        return np.take_along_axis(exact, support, axis=1), logsumexp(others, axis=1)


def assert_exact(obtained, logits, support):
    """Both parts agree with float64; float32 rounds numbers near 90, and sums of 200 of them, by 1e-5."""
    for part, expected in zip(obtained, exact_at(logits, support), strict=True):
        assert part.dtype == torch.promote_types(logits.dtype, torch.float32)
        np.testing.assert_allclose(part.numpy(), expected, atol=1e-12 if logits.dtype == torch.float64 else 3e-5)


@fresh
@given(logits_in_any_dtype(), st.integers(1, 250))
def test_the_support_holds_the_most_probable_tokens_whatever_ties(logits, k):
    """Each token at most once, most probable first, none outside more probable than one inside."""
    support, *parts = top_log_probs(logits, k)
    chosen = support.long().numpy()
    assert support.shape == (len(logits), min(k, logits.shape[1]))
    assert all(len(set(row)) == len(row) for row in chosen.tolist())
    values = logits.double().numpy()
    np.testing.assert_array_equal(
        np.take_along_axis(values, chosen, axis=1), -np.sort(-values, axis=1)[:, : chosen.shape[1]]
    )
    assert_exact(parts, logits, chosen)


@fresh
@given(logits_in_any_dtype(), st.data())
def test_reading_at_any_support_is_exact(logits, data):
    """Whatever tokens another model thinks probable, in whatever order."""
    n, vocabulary = logits.shape
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    k = data.draw(st.integers(1, vocabulary))
    support = np.stack([generator.permutation(vocabulary)[:k] for _ in range(n)])
    assert_exact(log_probs_at(logits, torch.from_numpy(support).int()), logits, support)


def test_reading_at_the_own_support_gives_the_same():
    """The reference's values at its own support are its top values, bit for bit."""
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(1))
    support, log_probs, rest = top_log_probs(logits, 10)
    again, rest_again = log_probs_at(logits, support)
    assert torch.equal(again, log_probs)
    assert torch.equal(rest_again, rest)


def test_a_tiny_rest_keeps_its_digits():
    """The rest is summed over the other tokens in log space: e^-200 is no float32, and 1 - sum would be 0."""
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    *_, rest = top_log_probs(logits, 1)
    assert rest.item() == pytest.approx(np.log(2) - 200, abs=2e-5)


def test_an_exhaustive_support_leaves_nothing():
    """A support of at least the vocabulary is the vocabulary, and the rest is -inf, not NaN."""
    support, log_probs, rest = top_log_probs(torch.zeros(2, 3), 1024)
    assert support.shape == log_probs.shape == (2, 3)
    assert torch.equal(rest, torch.full((2,), -torch.inf))


@pytest.mark.parametrize("logits", [torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)])
def test_what_are_no_logits_is_refused(logits):
    """One row of floating-point logits a prompt is expected."""
    with pytest.raises(ValueError, match=r"floating-point logits of shape \(n, vocabulary\)"):
        top_log_probs(logits, 2)

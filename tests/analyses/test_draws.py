"""Random draws: of the right size, each as likely, the same for the same seed, a few at a time."""

import numpy as np
import pytest
from scipy import stats

from pytest_quantcheck.analyses.draws import bootstrap_counts, half_samples


@pytest.mark.parametrize("drawn", [bootstrap_counts, half_samples])
@pytest.mark.parametrize("chunk", [1, 3, 50, 1000, None])
def test_draws_depend_on_the_seed_and_not_on_the_chunk(drawn, chunk):
    """The same seed gives the same draws however many are made at a time, another seed gives others."""
    whole = np.concatenate(list(drawn(37, 50, 1, 50)))
    np.testing.assert_array_equal(np.concatenate(list(drawn(37, 50, 1, chunk))), whole)
    assert not np.array_equal(np.concatenate(list(drawn(37, 50, 2, chunk))), whole)


@pytest.mark.parametrize("n", [2, 3, 8, 37])
def test_a_half_has_half_of_the_prompts_once(n):
    """Every draw has n // 2 prompts, none twice, and every prompt is as often in it: bounds of four standard errors."""
    counts = np.concatenate(list(half_samples(n, 4000, 3)))
    assert set(np.unique(counts)) == {0, 1}
    assert np.all(counts.sum(axis=1) == n // 2)
    assert np.all(np.abs(counts.mean(axis=0) - (n // 2) / n) < 4 * np.sqrt(0.25 / 4000))


def test_every_half_is_as_likely():
    """Of four prompts there are six halves."""
    counts = np.concatenate(list(half_samples(4, 6000, 1)))
    _, often = np.unique(counts, axis=0, return_counts=True)
    assert len(often) == 6
    assert stats.chisquare(often).pvalue > 0.001


def test_a_draw_has_as_many_prompts_as_there_are():
    """Multiplicities are whole, not negative, and add up to n in every draw."""
    counts = np.concatenate(list(bootstrap_counts(23, 200, 0)))
    assert counts.shape == (200, 23)
    assert np.all((counts >= 0) & (counts == counts.round()))
    assert np.all(counts.sum(axis=1) == 23)


def test_every_prompt_is_drawn_equally_often():
    """Multiplicities have mean 1 and variance 1 - 1/n; bounds are four standard errors."""
    counts = np.concatenate(list(bootstrap_counts(20, 20_000, 3)))
    assert np.all(np.abs(counts.mean(axis=0) - 1) < 4 * np.sqrt(0.95 / 20_000))
    assert counts.var() == pytest.approx(0.95, abs=0.02)


def test_memory_is_bounded_by_chunks():
    """Many prompts are drawn a few draws at a time."""
    assert len(next(bootstrap_counts(200_000, 2000, 0))) < 10


@pytest.mark.parametrize(("n", "draws"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(n, draws):
    """No prompts or no draws give no interval."""
    with pytest.raises(ValueError, match="at least one prompt and one draw"):
        next(bootstrap_counts(n, draws, 0))

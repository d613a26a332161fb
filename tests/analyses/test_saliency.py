"""Integrated gradients are exact where they can be, and salient neurons are those the paper's rules name."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.analyses.saliency import FLOOR, completeness_error, integrated_gradients, jaccard, salient


def polynomial(degree):
    """The function sum(c * x**degree) + x_0 * x_1, each row for itself, and its exact attributions on a straight path.

    Along x = a + t (b - a): the integral of c * degree * x**(degree - 1) is c * (b**degree - a**degree) / (b - a),
    so that the power attributes its own difference; the product attributes half of the obvious to each factor.
    """

    def function(x):
        weight = torch.arange(1, 1 + x[0].numel(), dtype=x.dtype).view(x.shape[1:])
        return (weight * x**degree).sum(dim=(1, 2)) + x[:, 0, 0] * x[:, 0, 1]

    def exact(start, end):
        start, end = start.double().numpy(), end.double().numpy()
        weight = np.arange(1, 1 + start[0].size).reshape(start.shape[1:])
        values = weight * (end**degree - start**degree)
        middle = (start + end) / 2
        values[:, 0, 0] += (end - start)[:, 0, 0] * middle[:, 0, 1]
        values[:, 0, 1] += (end - start)[:, 0, 1] * middle[:, 0, 0]
        return values

    return function, exact


def ends(prompts=3, tokens=2, neurons=4):
    """Two random ends of a path."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, prompts, tokens, neurons, generator=generator)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_polynomials_are_attributed_exactly(nodes):
    """A gradient of degree 2 * nodes - 1 is integrated exactly, up to float32 rounding."""
    function, exact = polynomial(2 * nodes)
    start, end = ends()
    obtained = integrated_gradients(function, start, end, nodes=nodes)
    np.testing.assert_allclose(obtained.values, exact(start, end), rtol=1e-4, atol=1e-4)
    assert obtained.error.max() < 1e-4


def test_too_few_nodes_show_in_the_completeness_error():
    """One node for a gradient of degree 5 is wrong, and the error says by how much."""
    function, exact = polynomial(6)
    start, end = ends()
    obtained = integrated_gradients(function, start, end, nodes=1)
    truth = exact(start, end).sum(axis=(1, 2))
    expected = np.abs(obtained.values.double().numpy().sum(axis=(1, 2)) - truth) / np.maximum(np.abs(truth), FLOOR)
    assert expected.min() > 0.1
    # truth is a float32 difference of float32 sums of order 100 here
    np.testing.assert_allclose(obtained.error, expected, rtol=1e-4)


@pytest.mark.parametrize("copies", [2, 3, 7, 100])
def test_copies_do_not_change_the_attribution(copies):
    """Evaluating several nodes at once, the last part incomplete or all in one, is the same sum."""
    function, _ = polynomial(5)
    start, end = ends()
    expected = integrated_gradients(function, start, end, nodes=7)
    obtained = integrated_gradients(function, start, end, nodes=7, copies=copies)
    # the same seven float32 terms, added in another order
    torch.testing.assert_close(obtained.values, expected.values, rtol=1e-5, atol=1e-5)
    assert obtained.nodes.tolist() == [7, 7, 7]


def test_function_gets_whole_copies_of_the_prompts():
    """Rows come as all prompts at one node, then all prompts at the next; a last part may hold fewer."""
    start, end = torch.zeros(2, 1, 1), torch.tensor([[[1.0]], [[10.0]]])
    seen = []

    def function(x):
        seen.append(x.detach().flatten())
        return x.sum(dim=(1, 2))

    integrated_gradients(function, start, end, nodes=3, copies=2)
    assert [len(rows) for rows in seen[:2]] == [4, 2]
    torch.testing.assert_close(seen[0].view(2, 2)[:, 1], 10 * seen[0].view(2, 2)[:, 0])


def test_attribution_is_float32_and_of_the_shape_of_its_path():
    """Values follow the activations, error and nodes the prompts."""
    function, _ = polynomial(2)
    obtained = integrated_gradients(function, *ends(3, 2, 4), nodes=2)
    assert obtained.values.dtype == torch.float32
    assert obtained.nodes.dtype == torch.int64
    assert (obtained.values.shape, obtained.error.shape, obtained.nodes.shape) == ((3, 2, 4), (3,), (3,))


def test_small_differences_are_measured_against_the_floor():
    """Where the ends differ by less than a tenth of a nat, the error is absolute in tenths of a nat."""

    def function(x):
        return x.sum(dim=(1, 2))

    start, end = torch.zeros(2, 1, 1), torch.tensor([[[0.01]], [[4.0]]])
    error = completeness_error(function, start, end, torch.tensor([[[0.03]], [[5.0]]]))
    np.testing.assert_allclose(error, [0.02 / FLOOR, 1.0 / 4.0], rtol=1e-6)


def test_nan_gives_an_error_that_passes_no_limit():
    """A function that is not a number anywhere is never taken for converged."""
    start, end = ends()
    obtained = integrated_gradients(lambda x: (x * torch.nan).sum(dim=(1, 2)), start, end, nodes=2)
    assert not (obtained.error <= 1e9).any()


def sets(attributions, real=None):
    """The salient neurons of one prompt, by number."""
    values = torch.tensor([attributions], dtype=torch.float32)
    real = torch.ones(values.shape[:2], dtype=torch.bool) if real is None else torch.tensor([real])
    return set(salient(values, real)[0].nonzero().flatten().tolist())


def test_most_attributed_token_is_the_one_with_the_highest_signed_sum():
    """Sums are -30, 7 and 4: token 1 counts, where neuron 1 has 0.75 of the largest; no other rule finds neuron 1.

    Once token 2 sums to 8 it counts instead.
    """
    assert sets([[-30.0, 0.0, 0.0], [4.0, 3.0, 0.0], [-6.0, 0.0, 10.0]]) == {0, 1, 2}
    assert sets([[-30.0, 0.0, 0.0], [4.0, 3.0, 0.0], [-2.0, 0.0, 10.0]]) == {0, 2}


def test_sum_over_tokens_is_of_absolute_values():
    """Neuron 1 cancels when signed and is never highest; its absolute values sum to 0.75 of neuron 0's."""
    assert 1 in sets([[8.0, 3.0, 0.0], [0.0, -3.0, 0.0]])
    assert sets([[8.0, 2.0, 0.0], [0.0, -3.0, 0.0]]) == {0}


def test_maximum_over_tokens_is_signed():
    """Token 0 and the sums find neuron 0 alone; 8 is a high value of neuron 1, -8 is none."""
    assert sets([[10.0, 0.0], [-10.0, 8.0]]) == {0, 1}
    assert sets([[10.0, 0.0], [-10.0, -8.0]]) == {0}


def test_highest_value_is_taken_absolute_before_it_is_divided():
    """Neuron 0 never rises above -5, which is 5/6 of the highest; token 0 and the sums find neurons 1 and 2 alone."""
    assert sets([[-5.0, -20.0, 6.0], [-5.0, 0.0, -30.0]]) == {0, 1, 2}


def test_exactly_seven_tenths_is_not_salient():
    """The limit itself is outside, and every neuron above it is inside."""
    assert sets([[10.0, 7.0, 7.5, 6.5]]) == {0, 2}


@pytest.mark.parametrize("padding", [1e6, -1e6, float("nan")])
def test_padding_never_counts(padding):
    """Whatever stands at positions without a token, the sets are those of the tokens alone."""
    rows = [[-3.0, -1.0, 0.0], [1.0, -2.0, -1.0]]
    assert sets([[padding] * 3, *rows], [False, True, True]) == sets(rows)


def test_nothing_attributed_is_nothing_salient():
    """All-zero attributions give an empty set, not every neuron."""
    assert sets([[0.0, 0.0], [0.0, 0.0]]) == set()


def test_prompts_are_judged_each_for_itself():
    """A large attribution in one prompt does not hide another prompt's."""
    values = torch.tensor([[[100.0, 0.0]], [[0.0, 0.001]]])
    assert salient(values, torch.ones(2, 1, dtype=torch.bool)).tolist() == [[True, False], [False, True]]


def slow_salient(values, real):
    """The three rules in plain NumPy, float64, token after token."""
    tokens = [row for row, there in zip(np.asarray(values, np.float64), real, strict=True) if there]
    rules = [max(tokens, key=np.sum), np.sum(np.abs(tokens), axis=0), np.max(tokens, axis=0)]
    found = np.zeros(values.shape[1], dtype=bool)
    for scores in map(np.abs, rules):
        if scores.max() > 0:
            found |= scores / scores.max() > 0.7
    return found


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6))
def test_salient_sets_agree_with_a_slow_oracle(seed, tokens, neurons):
    """On random attributions and random padding; values at the limit itself have probability zero."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(2, tokens, neurons)).astype(np.float32)
    real = np.arange(tokens) >= generator.integers(0, tokens, size=(2, 1))
    obtained = salient(torch.tensor(values), torch.tensor(real)).numpy()
    assert (obtained == [slow_salient(*prompt) for prompt in zip(values, real, strict=True)]).all()


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [0, 0, 1, 0], 0.0),
        ([1, 1, 0, 0], [0, 1, 1, 1], 0.25),
        ([0, 0, 0, 0], [0, 0, 1, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
    ],
)
def test_jaccard_by_hand(reference, candidate, expected):
    """Shared over together, 1 where both are empty, the same both ways."""
    left, right = np.array([reference], dtype=bool), np.array([candidate], dtype=bool)
    assert jaccard(left, right).tolist() == jaccard(right, left).tolist() == [expected]


def test_jaccard_is_per_prompt_and_float64():
    """One value for each row."""
    obtained = jaccard(np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool))
    assert obtained.dtype == np.float64
    assert obtained.tolist() == [0.5, 0.5]

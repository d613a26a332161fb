"""Integrated gradients are exact where they can be, and salient neurons are those the paper's rules name."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import eval_sh_legendre

from pytest_quantcheck.analyses.saliency import (
    FLOOR,
    gauss_legendre,
    integrated_gradients,
    jaccard,
    lobatto_kronrod,
    salient,
)


def polynomial(degree):
    """The function sum(c * x**degree) + x_0 * x_1, each row for itself, and its exact attributions on a straight path.

    Along x = a + t (b - a): the integral of c * degree * x**(degree - 1) is c * (b**degree - a**degree) / (b - a),
    so that the power attributes its own difference; the product attributes half of the obvious to each factor.
    """

    def function(x, _rows):
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
def test_gauss_legendre_attributes_polynomials_exactly(nodes):
    """A gradient of degree 2 * nodes - 1 is integrated exactly, up to float32 rounding."""
    function, exact = polynomial(2 * nodes)
    start, end = ends()
    obtained = integrated_gradients(function, start, end, rule=gauss_legendre(nodes))
    np.testing.assert_allclose(obtained.gradient * (end - start), exact(start, end), rtol=1e-4, atol=1e-4)
    assert obtained.error.max() < 1e-4
    assert obtained.nodes.tolist() == [nodes] * 3


@pytest.mark.parametrize(("levels", "nodes", "degree"), [(1, 5, 7), (2, 9, 13), (3, 17, 25), (4, 33, 33)])
def test_lobatto_kronrod_is_exact_up_to_its_degree(levels, nodes, degree):
    """Every Legendre polynomial up to the degree integrates to nothing, as it must, and the next even one does not."""
    rule = lobatto_kronrod(levels)
    used, weights = rule.points[: rule.sizes[-1]], rule.weights[-1]
    assert rule.nodes[-1] == len(used) == nodes
    integrals = [float(weights @ eval_sh_legendre(n, used)) for n in range(degree + 2)]
    np.testing.assert_allclose(integrals[:-1], [1.0] + degree * [0.0], atol=1e-12)
    assert abs(integrals[-1]) > 1e-3


def test_lobatto_kronrod_begins_with_lobattos_five_nodes():
    """The ends come first, then the middle and the zeros of the derivative of the fourth Legendre polynomial."""
    points = lobatto_kronrod(1).points
    assert points[:3].tolist() == [0.0, 1.0, 0.5]
    np.testing.assert_allclose(2 * points[3:] - 1, [-np.sqrt(3 / 7), np.sqrt(3 / 7)])


def test_no_weight_is_negative():
    """Rounding is not blown up: what all nodes have in common is averaged."""
    rule = lobatto_kronrod()
    assert all((weights[:size] > 0).all() for weights, size in zip(rule.weights, rule.sizes, strict=True))


def test_every_level_is_a_rule_of_its_own_on_the_first_points():
    """Coarser levels give no weight to points that come later, and equal the rule of so many levels."""
    rule = lobatto_kronrod(4)
    for level, size in enumerate(rule.sizes):
        coarse = lobatto_kronrod(level + 1)
        assert not rule.weights[level, size:].any()
        np.testing.assert_allclose(rule.points[:size], coarse.points)
        np.testing.assert_allclose(rule.weights[level, :size], coarse.weights[-1])


def test_every_piece_of_the_path_is_integrated_exactly():
    """Row k of a level's integrals gives, for every power below its number of nodes, the integral up to point k."""
    rule = lobatto_kronrod(3)
    for integrals, size in zip(rule.integrals, rule.sizes, strict=True):
        points = rule.points[:size]
        for degree in range(size):
            expected = points ** (degree + 1) / (degree + 1)
            np.testing.assert_allclose(integrals[:size, :size] @ points**degree, expected, atol=1e-12)


def test_a_sum_that_is_right_by_chance_is_found_out():
    """A bump that is over before the path ends leaves the sum right and the attribution unexplained in between."""
    start, end = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)

    def function(x, _rows):
        return (x + ((x > 0.4) & (x < 0.6))).sum(dim=(1, 2))

    obtained = integrated_gradients(function, start, end, rule=lobatto_kronrod(), tolerance=0.05)
    assert float((obtained.gradient * (end - start)).sum()) == pytest.approx(1.0)  # what the ends differ by
    assert obtained.error.tolist() == pytest.approx([1.0])  # the bump's height


def test_nodes_grow_for_the_prompts_that_need_them():
    """A straight path is done with five nodes, a bent one with nine, and each gets its own level's exact gradient."""
    start, end = torch.zeros(2, 1, 2), torch.ones(2, 1, 2)
    degree = torch.tensor([2.0, 9.0])

    def function(x, rows):
        return (x ** degree[rows, None, None]).sum(dim=(1, 2))

    obtained = integrated_gradients(function, start, end, rule=lobatto_kronrod(), tolerance=1e-5)
    assert obtained.nodes.tolist() == [5, 9]
    np.testing.assert_allclose(obtained.gradient, np.ones((2, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(obtained.at_end, [2.0, 2.0])


def test_a_prompt_that_more_nodes_do_not_help_is_left():
    """A jump in the function stays incomplete whatever the nodes: after nine of them it is given up."""
    start, end = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)

    def function(x, _rows):
        return (x + (x > 0.4)).sum(dim=(1, 2))

    obtained = integrated_gradients(function, start, end, rule=lobatto_kronrod(), tolerance=0.05)
    assert obtained.nodes.tolist() == [9]
    assert obtained.error.tolist() == pytest.approx([0.5])


def test_too_few_nodes_show_in_the_completeness_error():
    """One node for a gradient of degree 5 is wrong, and the error says by how much."""
    function, exact = polynomial(6)
    start, end = ends()
    obtained = integrated_gradients(function, start, end, rule=gauss_legendre(1))
    truth = exact(start, end).sum(axis=(1, 2))
    total = (obtained.gradient * (end - start)).double().numpy().sum(axis=(1, 2))
    expected = np.abs(total - truth) / np.maximum(np.abs(truth), FLOOR)
    assert expected.min() > 0.1
    # truth is a float32 difference of float32 sums of order 100 here
    np.testing.assert_allclose(obtained.error, expected, rtol=1e-4)


@pytest.mark.parametrize("at_once", [3, 7, 20, 1000])
def test_rows_at_once_do_not_change_the_attribution(at_once):
    """Evaluating several nodes at once, the last part incomplete or all in one, is the same sum."""
    function, _ = polynomial(5)
    start, end = ends()
    expected = integrated_gradients(function, start, end, rule=gauss_legendre(7))
    obtained = integrated_gradients(function, start, end, rule=gauss_legendre(7), at_once=at_once)
    # the same seven float32 terms, added in another order
    torch.testing.assert_close(obtained.gradient, expected.gradient, rtol=1e-5, atol=1e-5)


def test_function_gets_whole_copies_of_the_prompts():
    """Rows come as all prompts at one node, then all prompts at the next, and say whose they are."""
    start, end = torch.zeros(2, 1, 1), torch.tensor([[[1.0]], [[10.0]]])
    seen = []

    def function(x, rows):
        seen.append((x.detach().flatten(), rows.tolist()))
        return x.sum(dim=(1, 2))

    integrated_gradients(function, start, end, rule=gauss_legendre(3), at_once=4)
    assert [rows for _, rows in seen] == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1]]
    for at, _ in seen:
        torch.testing.assert_close(at.view(-1, 2)[:, 1], 10 * at.view(-1, 2)[:, 0])


def test_attribution_is_float32_and_of_the_shape_of_its_path():
    """The gradient follows the path; what is of the prompts is one number for each."""
    function, _ = polynomial(2)
    obtained = integrated_gradients(function, *ends(3, 2, 4), rule=lobatto_kronrod())
    assert (obtained.gradient.dtype, obtained.error.dtype, obtained.nodes.dtype) == (
        torch.float32,
        torch.float64,
        torch.int64,
    )
    assert obtained.gradient.shape == (3, 2, 4)
    assert obtained.error.shape == obtained.nodes.shape == obtained.at_end.shape == (3,)


def test_small_differences_are_measured_against_the_floor():
    """Where the ends differ by less than a tenth of a nat, the error is absolute in tenths of a nat."""
    start, end = torch.zeros(2, 1, 1), torch.tensor([[[0.01]], [[4.0]]])

    def function(x, _rows):  # a jump that no gradient sees
        return (x + 0.02 * (x > 0.005)).sum(dim=(1, 2))

    error = integrated_gradients(function, start, end, rule=gauss_legendre(2)).error
    np.testing.assert_allclose(error, [0.02 / FLOOR, 0.02 / 4.02], rtol=1e-4)


def test_nan_gives_an_error_that_passes_no_limit():
    """A function that is not a number anywhere is never taken for converged."""
    start, end = ends()
    obtained = integrated_gradients(lambda x, _: (x * torch.nan).sum(dim=(1, 2)), start, end, rule=gauss_legendre(2))
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

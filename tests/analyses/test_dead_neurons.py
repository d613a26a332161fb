"""Dead neurons: extremes in any batches, the thresholds as the paper compares them, and what is left out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantcheck.analyses.dead_neurons import (
    amplitude,
    amplitude_without_each,
    dead,
    dead_neuron_churn,
    dead_neuron_gain,
    dead_without_each,
    faint,
    new_extremes,
    update_extremes,
)
from pytest_quantcheck.errors import MeasurementError

fresh = settings(max_examples=60)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@st.composite
def batches(draw):
    """Activations (tokens, neurons) near the thresholds, a group for each token, and where batches end.

    Many are equal where they are taken from few values, and one neuron may be constant. Prompts have one token or
    more, and those of a group lie together or not.
    """
    tokens, neurons, groups = draw(st.integers(1, 40)), draw(st.integers(1, 20)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-6, 0.05, 1.0]))
    values = generator.normal(size=(tokens, neurons))
    activations = torch.from_numpy((values.round() if draw(st.booleans()) else values) * scale)
    if draw(st.booleans()):
        activations[:, draw(st.integers(0, neurons - 1))] = draw(st.sampled_from([0.0, -0.0, 0.1, -0.1, 3.0]))
    member = torch.from_numpy(generator.integers(0, groups, tokens))
    member = member.sort().values if draw(st.booleans()) else member
    cuts = draw(st.lists(st.integers(0, tokens), max_size=4).map(sorted))
    return activations.to(draw(st.sampled_from(DTYPES))), member, groups, [0, *cuts, tokens]


def extremes(activations, member, groups, cuts):
    """Stream the activations through, batch by batch."""
    minimum, maximum = new_extremes(groups, activations.shape[1])
    for start, stop in pairwise(cuts):
        update_extremes(minimum, maximum, activations[start:stop], member[start:stop])
    return minimum.numpy(), maximum.numpy()


def dead_by_definition(activations, *, rectified):
    """Look at every activation of every neuron, as float32."""
    values = activations.float().numpy()
    limit = np.float32(1e-6) if rectified else np.float32(0.1)
    return np.array([all(abs(x) < limit for x in neuron) for neuron in values.T])


@fresh
@given(batches())
def test_extremes_are_those_of_each_group_however_the_tokens_are_batched(sample):
    """Streaming gives exactly each group's smallest and largest activation; an empty group has +inf and -inf."""
    activations, member, groups, _ = sample
    minimum, maximum = extremes(*sample)
    values = activations.float().numpy()
    for group in range(groups):
        own = values[member.numpy() == group]
        np.testing.assert_array_equal(minimum[group], own.min(axis=0, initial=np.inf))
        np.testing.assert_array_equal(maximum[group], own.max(axis=0, initial=-np.inf))


@fresh
@given(batches(), st.booleans())
def test_dead_is_what_the_definition_says(sample, rectified):
    """From the extremes alone follows the same set as from all stored activations."""
    expected = dead_by_definition(sample[0], rectified=rectified)
    np.testing.assert_array_equal(dead(*extremes(*sample), rectified=rectified), expected)


@fresh
@given(batches(), st.booleans())
def test_leaving_out_each_group_is_looking_at_the_others(sample, rectified):
    """Row i is the dead set of all tokens outside of group i, if there are any."""
    activations, member, groups, _ = sample
    others = [member != group for group in range(groups)]
    if not all(rows.any() for rows in others):
        with pytest.raises(MeasurementError, match="at least one token"):
            dead_without_each(*extremes(*sample), rectified=rectified)
        return
    expected = [dead_by_definition(activations[rows], rectified=rectified) for rows in others]
    np.testing.assert_array_equal(dead_without_each(*extremes(*sample), rectified=rectified), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rectified", "limit"), [(False, 0.1), (True, 1e-6)])
def test_the_limit_itself_is_alive_in_float32(dtype, rectified, limit):
    """The comparison is strict, against the float32 limit, by the value the activation has."""
    around = torch.tensor([np.float32(limit), np.nextafter(np.float32(limit), np.float32(0))])
    activations = torch.cat([around, -around])[None].to(dtype)
    expected = activations.float().numpy()[0]
    minimum, maximum = new_extremes(1, 4)
    update_extremes(minimum, maximum, activations, torch.zeros(1, dtype=torch.int64))
    obtained = dead(minimum.numpy(), maximum.numpy(), rectified=rectified)
    assert obtained.tolist() == (np.abs(expected) < np.float32(limit)).tolist()
    if dtype in (torch.float32, torch.float64):
        assert obtained.tolist() == [False, True, False, True]


@pytest.mark.parametrize(("value", "expected"), [(0.0, True), (0.5, False)])
def test_all_dead_and_all_alive(value, expected):
    """A silent layer is all dead, a loud one all alive."""
    extremes = np.full((2, 7), value, dtype=np.float32)
    assert dead(extremes, extremes, rectified=False).tolist() == [expected] * 7


def test_one_group_is_enough_to_be_alive():
    """A neuron is dead where no group has it alive."""
    low, high = np.zeros((3, 3), dtype=np.float32), np.float32([[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert dead(low, high, rectified=False).tolist() == [False, False, True]


@pytest.mark.parametrize("groups", [0, 2])
def test_no_token_is_an_error(groups):
    """A neuron that no token reached is neither dead nor alive."""
    minimum, maximum = new_extremes(groups, 3)
    with pytest.raises(MeasurementError, match="at least one token"):
        dead(minimum.numpy(), maximum.numpy(), rectified=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_that_are_not_finite_are_an_error_that_names_the_neuron(bad, dtype):
    """One bad activation among good ones is found, whichever token has it."""
    activations = torch.zeros(9, 4, dtype=dtype)
    activations[5, 2] = bad
    minimum, maximum = new_extremes(2, 4)
    update_extremes(minimum, maximum, activations, torch.arange(9) % 2)
    with pytest.raises(MeasurementError, match=r"in 1 of 4 neurons \(the first is 2\)"):
        dead(minimum.numpy(), maximum.numpy(), rectified=False)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_autograd_is_left_out(mode):
    """Activations that want gradients, in any grad mode, leave no graph on the extremes."""
    minimum, maximum = new_extremes(1, 3)
    with mode():
        update_extremes(minimum, maximum, torch.ones(2, 3, requires_grad=True) * 2, torch.zeros(2, dtype=torch.int64))
    assert not minimum.requires_grad
    assert minimum.tolist() == maximum.tolist() == [[2.0] * 3]


def test_shapes_that_do_not_fit_are_refused():
    """Each token needs a group, each neuron a column."""
    minimum, maximum = new_extremes(2, 3)
    for tokens, neurons, members in [(4, 2, 4), (4, 3, 5)]:
        with pytest.raises(ValueError, match="one group a token"):
            update_extremes(minimum, maximum, torch.zeros(tokens, neurons), torch.zeros(members, dtype=torch.int64))


@fresh
@given(st.integers(1, 50), st.integers(0, 2**32))
def test_gain_and_churn_count_neurons(neurons, seed):
    """Gain is the net change, signed, churn the gross one; rows are taken one by one."""
    expected, obtained = np.random.default_rng(seed).random((2, 4, neurons)) < 0.3
    for row in range(4):
        before, after = set(np.flatnonzero(expected[row])), set(np.flatnonzero(obtained[row]))
        gain = (len(after) - len(before)) / neurons
        assert dead_neuron_gain(expected, obtained)[row] == gain
        assert dead_neuron_churn(expected, obtained)[row] == len(before ^ after) / neurons


@pytest.mark.parametrize("masks", [([True], [True, False]), ([], []), (True, True)])
def test_masks_over_other_neurons_are_refused(masks):
    """Two models are compared neuron by neuron."""
    with pytest.raises(ValueError, match="same neurons"):
        dead_neuron_churn(*masks)


@fresh
@given(batches())
def test_amplitude_is_the_largest_magnitude(batch):
    """Over all tokens, and over all but those of each group, whatever the batches."""
    activations, member, groups, cuts = batch
    values, found = np.abs(activations.float().numpy()), extremes(activations, member, groups, cuts)
    assert np.array_equal(amplitude(*found), values.max(axis=0))
    left = [values[member.numpy() != g] for g in range(groups)]
    if all(map(len, left)):
        assert np.array_equal(amplitude_without_each(*found), [tokens.max(axis=0) for tokens in left])


def test_faint_is_a_tenth_of_the_median_of_what_moves():
    """By hand: the median of 2, 4 and 6 is 4; 0.4 is faint, a little more is not, and 0 has no say in it."""
    reference = np.float32([2, 4, 6, 0])
    assert faint(reference, reference).tolist() == [False, False, False, True]
    assert faint(np.float32([0.4, 0.41, 0, 9]), reference).tolist() == [True, False, True, False]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_faint_does_not_depend_on_the_models_scale(scale):
    """The same neurons, whatever the size of the layer's activations; the fixed limit calls all dead or none."""
    amplitudes = np.abs(np.random.default_rng(2).normal(size=200)).astype(np.float32)
    expected = faint(amplitudes, amplitudes)
    assert 0 < expected.sum() < 40
    assert np.array_equal(faint(amplitudes * np.float32(scale), amplitudes * np.float32(scale)), expected)


def test_each_group_left_out_has_its_own_scale():
    """Rows (g, neurons): each is compared with the median of its own row of the reference."""
    reference = np.float32([[1, 1, 1], [100, 100, 100]])
    assert faint(np.float32([[1, 0.1, 5], [1, 10, 50]]), reference).tolist() == [
        [False, True, False],
        [True, True, False],
    ]


def test_where_nothing_moves_all_is_faint():
    """A reference that is 0 throughout: what is 0 is faint, what is not is not."""
    assert faint(np.float32([0, 1]), np.float32([0, 0])).tolist() == [True, False]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_amplitude_refuses_what_is_not_finite(value):
    """An overflow is an error, not a loud neuron."""
    with pytest.raises(MeasurementError, match="1 of 2 neurons"):
        amplitude(np.float32([[0, -1]]), np.float32([[value, 1]]))

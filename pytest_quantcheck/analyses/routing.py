"""Routing: how far two models send tokens to the same experts."""

import numpy as np
from numpy.typing import NDArray


def router_agreement(reference: NDArray[np.int16], candidate: NDArray[np.int16]) -> NDArray[np.float64]:
    """Compare each token's experts by the Jaccard index.

    Args:
        reference: (t, k), the experts of each token, each once, in any order.
        candidate: the same of the other model.

    Returns:
        (t,) float64 in [0, 1].

    Raises:
        ValueError: other shapes.

    Example:
        >>> router_agreement(np.array([[0, 1], [0, 1]]), np.array([[1, 0], [1, 2]])).round(3).tolist()
        [1.0, 0.333]
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"Expected as many tokens and experts of each, got {reference.shape} and {candidate.shape}.")
    same = np.zeros(len(reference))
    for column in reference.T:  # k comparisons of all tokens: a table of all pairs would take k times the memory
        same += (candidate == column[:, None]).any(axis=1)
    return np.asarray(same / (2 * reference.shape[1] - same))

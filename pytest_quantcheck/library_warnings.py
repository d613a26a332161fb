"""Warnings of libraries, about which a user can do nothing."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ignore_library_warnings() -> Iterator[None]:
    """Ignore the warnings of libraries during a block.

    A user cannot change that transformers uses a name that torch deprecates. Under `-W error` such a warning would fail
    a gate that found nothing wrong with the model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

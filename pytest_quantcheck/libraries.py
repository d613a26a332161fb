"""Libraries of this environment: their versions, and their warnings."""

import importlib.metadata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def installed(package: str) -> str | None:
    """Return a package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextmanager
def ignore_library_warnings() -> Iterator[None]:
    """Ignore the warnings of libraries during a block.

    A user cannot change that transformers uses a name that torch deprecates. Under `-W error` such a warning would fail
    a gate that found nothing wrong with the model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Packages of this environment."""

import importlib.metadata


def installed(package: str) -> str | None:
    """Return a package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

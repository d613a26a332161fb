"""Measurements on disk: written whole or not at all, verified when they are read."""

from pytest_quantcheck.storage.atomic import write_atomically, write_directory
from pytest_quantcheck.storage.cache import Cache, Entry
from pytest_quantcheck.storage.measurement_files import (
    holds_measurement,
    load_measurement,
    load_provenance,
    save_measurement,
)
from pytest_quantcheck.storage.places import check_new, check_writable, find_target
from pytest_quantcheck.storage.thinning import save_baseline

__all__ = [
    "Cache",
    "Entry",
    "check_new",
    "check_writable",
    "find_target",
    "holds_measurement",
    "load_measurement",
    "load_provenance",
    "save_baseline",
    "save_measurement",
    "write_atomically",
    "write_directory",
]

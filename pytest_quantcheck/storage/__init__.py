"""Measurements on disk: written whole or not at all, verified when they are read."""

from .atomic import check_writable, write_atomically
from .baselines import save_baseline
from .cache import Cache, Entry
from .checkpoints import Checkpoint
from .measurements import load_measurement, load_provenance, save_measurement

__all__ = [
    "Cache",
    "Checkpoint",
    "Entry",
    "check_writable",
    "load_measurement",
    "load_provenance",
    "save_baseline",
    "save_measurement",
    "write_atomically",
]

"""Measurements on disk: written whole or not at all, verified when they are read."""

from .atomic import write_atomically
from .cache import Cache, Entry
from .checkpoints import Checkpoint
from .measurements import load_measurement, save_measurement

__all__ = ["Cache", "Checkpoint", "Entry", "load_measurement", "save_measurement", "write_atomically"]

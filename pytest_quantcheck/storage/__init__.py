"""Measurements on disk: written whole or not at all, verified when they are read."""

from .atomic import write_atomically
from .measurements import load_measurement, save_measurement

__all__ = ["load_measurement", "save_measurement", "write_atomically"]

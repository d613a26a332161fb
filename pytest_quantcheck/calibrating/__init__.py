"""Comparisons of harmless and of damaged models → a profile whose limits lie between the two."""

from .profile import calibrated
from .versions import check_calibration, next_version, save_calibrated

__all__ = ["calibrated", "check_calibration", "next_version", "save_calibrated"]

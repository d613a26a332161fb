"""Comparisons of harmless and of damaged models → a profile whose limits lie between the two."""

from pytest_quantcheck.profiles.calibrating.drafting import calibrated
from pytest_quantcheck.profiles.calibrating.versions import check_calibration, next_version, save_calibrated

__all__ = ["calibrated", "check_calibration", "next_version", "save_calibrated"]

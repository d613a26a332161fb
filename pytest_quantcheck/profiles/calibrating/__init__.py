"""Draft a profile whose limits lie between harmless and damaged models."""

from pytest_quantcheck.profiles.calibrating.drafting import draft_profile
from pytest_quantcheck.profiles.calibrating.versions import check_calibration, next_version, save_profile

__all__ = ["check_calibration", "draft_profile", "next_version", "save_profile"]

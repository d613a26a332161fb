"""Threshold profiles: read, check, and look up the limit of one case."""

from pytest_quantcheck.profiles.profile import Limit, Profile, Rule
from pytest_quantcheck.profiles.published import (
    changed_profiles,
    checksum,
    load_profile,
    published_checksums,
    thresholds_directory,
)
from pytest_quantcheck.profiles.reading import read_profile

__all__ = [
    "Limit",
    "Profile",
    "Rule",
    "changed_profiles",
    "checksum",
    "load_profile",
    "published_checksums",
    "read_profile",
    "thresholds_directory",
]

"""`profiles show`, `diff` and `check`: text and an exit status out."""

import argparse
from collections.abc import Callable

from pytest_quantcheck.commands.output import FINE, OTHERWISE, complain, say
from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.profiles.checking import check_files, check_published
from pytest_quantcheck.profiles.published import load_profile
from pytest_quantcheck.reporting.profile_description import difference_lines, profile_lines


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked of profiles. Raises `ProfileError` for one that cannot be read."""
    return _VERBS[arguments.verb](arguments)


def _show(arguments: argparse.Namespace) -> int:
    say(profile_lines(load_profile(arguments.spec)))
    return FINE


def _diff(arguments: argparse.Namespace) -> int:
    old, new = load_profile(arguments.old), load_profile(arguments.new)
    differences = list(difference_lines(old, new))
    say(differences or [f"{old.label} and {new.label} say the same"])
    return OTHERWISE if differences else FINE


def _check(arguments: argparse.Namespace) -> int:
    status = FINE
    for finding in check_files(arguments.specs) if arguments.specs else check_published():
        if isinstance(finding, ProfileError):
            complain(finding)
            status = OTHERWISE
        else:
            say([finding])
    return status


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"show": _show, "diff": _diff, "check": _check}

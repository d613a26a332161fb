"""`profiles show`, `diff` and `check`: arguments in, text and an exit status out."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.profiles.checking import check_files, check_published
from pytest_quantcheck.profiles.describing import difference_lines, profile_lines
from pytest_quantcheck.profiles.published import load_profile
from pytest_quantcheck.reporting.wording import printable

FINE, OTHERWISE, TROUBLE = 0, 1, 2
"""Exit statuses: as asked; a difference, or a bad profile; nothing could be said."""

_SPEC = "NAME@VERSION of a published profile, or the path of a .toml file"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status; argparse itself ends with 2 on a bad one."""
    asked = _parser().parse_args(arguments)
    try:
        status: int = asked.run(asked)
        sys.stdout.flush()
    except ProfileError as problem:
        _complain(problem)
        return TROUBLE
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_quantcheck")
    rooms = parser.add_subparsers(required=True, metavar="COMMAND")
    profiles = rooms.add_parser("profiles", help="look at threshold profiles, and check them")
    verbs = profiles.add_subparsers(required=True, metavar="show|diff|check")

    show = verbs.add_parser("show", help="print a profile in full: its rule, its limits, and what they rest on")
    show.add_argument("spec", metavar="SPEC", help=_SPEC)
    show.set_defaults(run=_show)

    diff = verbs.add_parser("diff", help="print where two profiles differ; exit status 1 where they do")
    diff.add_argument("old", metavar="SPEC", help=_SPEC)
    diff.add_argument("new", metavar="SPEC", help=_SPEC)
    diff.set_defaults(run=_diff)

    check = verbs.add_parser("check", help="check profiles; exit status 1 where one is bad")
    check.add_argument("specs", metavar="SPEC", nargs="*", help=f"{_SPEC}; all published ones if none is given")
    check.set_defaults(run=_check)
    return parser


def _show(asked: argparse.Namespace) -> int:
    _say(profile_lines(load_profile(asked.spec)))
    return FINE


def _diff(asked: argparse.Namespace) -> int:
    old, new = load_profile(asked.old), load_profile(asked.new)
    differences = list(difference_lines(old, new))
    _say(differences or [f"{old.label} and {new.label} say the same"])
    return OTHERWISE if differences else FINE


def _check(asked: argparse.Namespace) -> int:
    status = FINE
    for finding in check_files(asked.specs) if asked.specs else check_published():
        if isinstance(finding, ProfileError):
            _complain(finding)
            status = OTHERWISE
        else:
            _say([finding])
    return status


def _say(lines: Iterable[str]) -> None:
    """Print lines to any stream: what its encoding lacks is written as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def _complain(problem: ProfileError) -> None:
    print(printable(str(problem)), file=sys.stderr)

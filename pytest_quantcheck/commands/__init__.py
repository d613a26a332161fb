"""`python -m pytest_quantcheck …`: what can be done without pytest. The parser is light; a command's work is not."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from pytest_quantcheck.commands.output import INTERRUPTED, TROUBLE, complain
from pytest_quantcheck.commands.parser import parser
from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.run.termination import interrupt_on_sigterm

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status; argparse itself ends with 2 on a bad one."""
    parsed = parser().parse_args(arguments)
    try:
        with interrupt_on_sigterm():
            status: int = import_module(f"{__name__}.{parsed.command}").run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        complain(QuantcheckError("interrupted"))
        return INTERRUPTED
    except (QuantcheckError, OSError) as problem:
        complain(problem)
        return TROUBLE
    return status

"""The directory of a report: `report.json`, and `report.html` where the extra `report` is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.library_warnings import ignore_library_warnings
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.reporting import Report
from pytest_quantcheck.storage import write_atomically

REPORT = "report.json"
PAGE = "report.html"


def write_report(
    directory: Path, make: Callable[[], Mapping[str, bytes]], prompt_sets: Mapping[str, PromptSet]
) -> list[str]:
    """Write the files of a report, and the page for people; say in a sentence where each is, or why it is not.

    Whatever goes wrong costs the files alone: verdicts and exit status stand.

    Args:
        directory: where; made if it is not there.
        make: makes the content of the files by name, `report.json` among them.
        prompt_sets: by name, for the prompts whose answer changed; the page leaves out what it does not find.
    """
    try:
        files = make()
        for name, content in files.items():
            write_atomically(directory / name, content)
    except Exception as error:  # whatever it is, the verdicts stand
        return [f"the report could not be written, the verdicts stand: {_told(error)}"]
    written = [f"{Path(name).stem}: {directory / name}" for name in files]
    return [*written, _write_page(directory / PAGE, files[REPORT], prompt_sets)]


def _write_page(path: Path, report: bytes, prompt_sets: Mapping[str, PromptSet]) -> str:
    with suppress(OSError):
        path.unlink()  # where no new page can be made, an older one would be taken for this report's
    try:
        with ignore_library_warnings():  # of fonts that lack a letter
            from pytest_quantcheck.reporting.html import html_report  # noqa: PLC0415 - heavy, and an extra

            page = html_report(msgspec.json.decode(report, type=Report), prompt_sets)
        write_atomically(path, page)
    except ImportError as error:
        return f"no {path.name}: {error}; install what it needs with pip install 'pytest-quantcheck[report]'"
    except Exception as error:  # a drawing library may raise anything, and the verdicts stand
        return f"no {path.name}, the verdicts stand: {_told(error)}"
    return f"report: {path}"


def _told(error: Exception) -> str:
    """What went wrong and what to do: our own errors say both."""
    if isinstance(error, QuantcheckError):
        return str(error)
    return f"{type(error).__name__}: {error}; this is a fault of the plugin or of a library, please report it"

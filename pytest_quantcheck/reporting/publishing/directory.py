"""Directory of a report: `report.json`, and `report.html` if the extra `report` is installed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from pytest_quantcheck.errors import QuantcheckError, StorageError
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.reporting import Report, encode_certificate, encode_report
from pytest_quantcheck.storage import find_target, write_atomically

REPORT = "report.json"
PAGE = "report.html"
CERTIFICATE = "certificate.json"


def remove_report(directory: Path) -> None:
    """Remove an earlier run's files: a run that is cut must not leave them to be taken for its own."""
    for name in (REPORT, PAGE, CERTIFICATE):
        with suppress(OSError, StorageError):
            find_target(directory / name).unlink()


def write_report(directory: Path, report: Report, prompt_sets: Mapping[str, PromptSet]) -> list[str]:
    """Write the files and the HTML page of a report.

    Returns a sentence for each that says where it is, or why it was not written.
    """
    try:
        files = {REPORT: encode_report(report)}
        if report.certificate:
            files[CERTIFICATE] = encode_certificate(report.certificate)
        for name, content in files.items():
            write_atomically(directory / name, content)
    except Exception as error:  # any error: the verdicts are not affected
        return [f"the report could not be written, the verdicts stand: {_explanation(error)}"]
    written = [f"{Path(name).stem}: {directory / name}" for name in files]
    return [*written, _write_page(directory / PAGE, files[REPORT], prompt_sets)]


def _write_page(path: Path, report: bytes, prompt_sets: Mapping[str, PromptSet]) -> str:
    try:
        with suppress(OSError):
            find_target(path).unlink()  # an old page must not be taken for the page of this report
        with ignore_library_warnings():  # matplotlib warns of letters that a font lacks
            from pytest_quantcheck.reporting.html import html_report  # noqa: PLC0415 - heavy, and an extra

            page = html_report(msgspec.json.decode(report, type=Report), prompt_sets)
        write_atomically(path, page)
    except ImportError as error:
        return f"no {path.name}: {error}; install what it needs with pip install 'pytest-quantcheck[report]'"
    except Exception as error:  # a drawing library may raise any error; the verdicts are not affected
        return f"no {path.name}, the verdicts stand: {_explanation(error)}"
    return f"report: {path}"


def _explanation(error: Exception) -> str:
    """Say what went wrong and what to do; our own errors say both."""
    if isinstance(error, QuantcheckError):
        return str(error)
    return f"{type(error).__name__}: {error}; this is a bug in the plugin or in a library, please report it"

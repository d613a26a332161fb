"""Places where a run's report goes: a directory, and the summary of a step in GitHub Actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.reporting import Report, markdown_lines
from pytest_quantcheck.reporting.publishing.directory import write_report
from pytest_quantcheck.reporting.publishing.step_summary import append_to_step_summary

__all__ = ["publish"]


def publish(
    report: Report,
    directory: Path | None,
    prompt_sets: Mapping[str, PromptSet],
    *,
    cut: bool = False,
    spell: Callable[[str], str] = str,
) -> list[str]:
    """Write a run's report wherever it was asked for.

    That is a directory, if one is named, and the step's summary, if there is one. An error costs only what could not
    be written: verdicts and exit status stay as they are.

    Args:
        report: all results of the run.
        directory: where the files go; created if it does not exist.
        prompt_sets: by name, for the texts of prompts whose answer changed; the page leaves out missing ones.
        cut: the run was cut short: no file is written, and the summary says so.
        spell: spells the names of options in the summary.

    Returns:
        A sentence for each file that says where it is, or why it was not written.
    """
    written = []
    if directory:
        written += ["no report: the run was cut short"] if cut else write_report(directory, report, prompt_sets)
    lines = markdown_lines(report, ["the run was cut short"] if cut else [])
    problem = append_to_step_summary(map(spell, lines))
    return [*written, problem] if problem else written

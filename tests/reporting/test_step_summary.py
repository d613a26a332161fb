"""What is appended for GitHub's page, and what happens where that cannot be."""

import os
import time

import pytest

from pytest_quantcheck.reporting.publishing.step_summary import LIMIT, VARIABLE, append_to_step_summary


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The file that GitHub names, which another step of the job has begun."""
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_lines_are_appended_as_utf_8(page):
    """What stands there stays, whatever the locale's encoding is."""
    assert append_to_step_summary(["✅ größe", ""]) == ""
    assert page.read_bytes().decode() == "before\n✅ größe\n\n"


@pytest.mark.parametrize("name", [None, ""])
def test_without_the_variable_nothing_is_done(name, page, monkeypatch):
    """Elsewhere than in GitHub's Actions there is no such file."""
    monkeypatch.setenv(VARIABLE, name) if name is not None else monkeypatch.delenv(VARIABLE)
    assert append_to_step_summary(["text"]) == ""
    assert page.read_text() == "before\n"


def test_limit_of_a_step_is_kept(page):
    """What other commands of the step have written counts: GitHub would show nothing of a larger file."""
    page.write_text("x" * (LIMIT - 200))
    assert append_to_step_summary(["line"] * 100) == ""
    assert LIMIT - 100 < page.stat().st_size <= LIMIT
    assert page.read_text().endswith("This summary is cut short: there is no room for more.\n")
    before = page.stat().st_size
    assert "is full" in append_to_step_summary(["line"] * 100)
    assert page.stat().st_size == before


@pytest.mark.parametrize("name", ["missing/summary.md", "", "nul\\0"], ids=["missing", "directory", "no-path"])
def test_file_that_cannot_be_written_is_said(name, page, monkeypatch):
    """One sentence with the next step, and nothing is raised."""
    if "\\" not in name:
        monkeypatch.setenv(VARIABLE, f"{page.parent}/{name}")
    else:
        monkeypatch.setattr("pytest_quantcheck.reporting.publishing.step_summary.os.environ", {VARIABLE: "nul\0"})
    problem = append_to_step_summary(["text"])
    assert problem.startswith("no step summary, the verdicts stand: ")
    assert problem.endswith("check GITHUB_STEP_SUMMARY")


@pytest.mark.parametrize("kind", ["pipe", "link", "loop"])
def test_what_is_no_file_is_left(page, tmp_path, monkeypatch, kind):
    """A pipe that nobody reads would wait for ever; a link leads out of the place that was named."""
    found = tmp_path / "job" / "summary"
    found.parent.mkdir()
    os.mkfifo(found) if kind == "pipe" else found.symlink_to(page if kind == "link" else found)
    monkeypatch.setenv(VARIABLE, str(found))
    started = time.perf_counter()
    problem = append_to_step_summary(["text"])
    assert time.perf_counter() - started < 1
    assert problem.startswith(f"no step summary, the verdicts stand: cannot write {found}: expected a regular file")
    assert ("named pipe" if kind == "pipe" else "found a link") in problem
    assert problem.endswith("check GITHUB_STEP_SUMMARY")
    assert page.read_text() == "before\n"

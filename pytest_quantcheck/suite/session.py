"""One pytest run with a gate: what it collects and writes."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.certificate import Certificate, certify
from pytest_quantcheck.errors import QuantcheckError, SettingsError
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.options import Settings
from pytest_quantcheck.profiles.calibrating import check_calibration, draft_profile, save_profile
from pytest_quantcheck.reporting import (
    WIDEST,
    Report,
    control_lines,
    printable,
    remark_lines,
    summary_lines,
)
from pytest_quantcheck.reporting.outline import Outline
from pytest_quantcheck.reporting.publishing import publish
from pytest_quantcheck.reporting.publishing.directory import PAGE, REPORT, remove_report
from pytest_quantcheck.run.dry_run import check_run
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.storage import check_writable
from pytest_quantcheck.storage.measurement_files import FILE
from pytest_quantcheck.suite.items import AcceptanceSuite, PackagedItem, check_names
from pytest_quantcheck.suite.progress import Announcer
from pytest_quantcheck.suite.results import Results
from pytest_quantcheck.suite.selection import take_selection
from pytest_quantcheck.text import counted, plural, shortened

_CACHE = "quantcheck_cache"
_NOT_COLLECTED = (
    "quantcheck: other tests are named, so the gate is not collected; add -m quantcheck or --quantcheck-only"
)


class Session:
    """Also the listener to pytest's and xdist's hooks; `results` are what the tests have found so far."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config, self.settings = config, settings
        if settings.dry_run:
            config.option.dist = "no"  # xdist's: there is nothing to hand out to workers
        _refuse_xdist_beside(settings, config)
        self._announcer = Announcer(config, alone=not settings.cache)
        self.gate = Gate(_with_shared_cache(config, settings), self._announcer.progress)
        self._selection = take_selection(config, only=settings.only)
        check_names(self.gate, self._selection.node_ids)
        if self._selection.collect:
            _check_limits(self.gate)
        self.results = Results(self.gate)
        self._written: list[str] = []
        self._label = self._check_calibration()
        if settings.update_baseline and settings.baseline:
            stored = (f"{name}/{FILE}" for name in self.gate.prompt_sets)
            check_writable("--quantcheck-baseline", Path(settings.baseline), *stored)
        if self._selection.alone:
            config.args = []

    def header(self) -> list[str]:
        """List the lines for the top of pytest's output."""
        lines = list(self._outline.header_lines())
        return lines if self._selection.collect else [*lines, _NOT_COLLECTED]

    def collect(self, session: pytest.Session) -> list[pytest.Item]:
        """Collect the packaged suite's items, as far as they are selected."""
        if not self._selection.collect:
            return []
        return list(session.genitems(AcceptanceSuite.of(session, self.gate, self._selection.node_ids)))

    def make_ready(self, items: Sequence[pytest.Item]) -> None:
        """Check the prompts and start the engine, before a model is loaded.

        `items`: what this process runs; with xdist its workers do.

        Raises:
            UsageError: names the row, or says what the engine lacks.
        """
        ours = not items or any(isinstance(item, PackagedItem) for item in items)
        if not ours or not self._selection.collect or self._idle or self._is_worker:
            return
        try:
            self.gate.check_prompts()
            self.gate.start_engine()
        except QuantcheckError as error:
            raise pytest.UsageError(printable(str(error))) from error

    def dry_run(self) -> bool | None:
        """Check what can be checked and print what would be measured; return None when this is no dry run.

        Raises:
            UsageError: something is wrong that the run needs; each problem is printed.
        """
        if not self.settings.dry_run:
            return None
        with ignore_library_warnings():
            findings = check_run(self.gate, self._announcer.progress)
        if self._announcer.reporter:
            label = "@".join(map(str, self._label)) if self._label else ""
            plan = self._outline.dry_run_lines(new_profile=label, report=self._report_plan())
            for line in chain(plan, map(printable, findings.lines())):
                self._announcer.reporter.write_line(line)
        if findings.problems:
            raise pytest.UsageError(
                f"the run would not succeed: {counted(len(findings.problems), 'problem')}, listed above; correct "
                f"{plural(len(findings.problems), 'it', 'them')} and try again"
            )
        return True

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker the shared cache and the channel for progress."""
        node.workerinput[_CACHE] = self.gate.settings.cache
        self._announcer.connect(node)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what packaged tests found, wherever they ran; a cause that they share is shown once."""
        self.results.take(report)
        if not self._is_worker:
            self.results.refer_to_first(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Remove an earlier run's report, before this run can be cut."""
        if self.settings.report and self._selection.collect and not (self._idle or self._is_worker):
            remove_report(Path(self.settings.report))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the requested report and profile once all reports have come."""
        if not self.results.outcomes or self._idle or self._is_worker:
            return
        cut = exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        if not cut:
            self._follow_verdicts(session)
        directory = Path(self.settings.report) if self.settings.report else None
        self._written += publish(self._report, directory, self.gate.prompt_sets, cut=cut)
        if self._label and not cut:
            self._written.append(self._write_profile(session, *self._label))

    def pytest_unconfigure(self) -> None:
        """End the workers of this run."""
        self.gate.close()

    def _follow_verdicts(self, session: pytest.Session) -> None:
        """Let the exit status follow the verdicts, whatever marks say."""
        results = self.results
        results.find_unjudged()
        if session.exitstatus == pytest.ExitCode.OK and results.outcome in {"failed", "broken"}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if results.forgiven:
            tests = plural(len(results.forgiven), "this test", "these tests")
            self._written.append(
                f"the verdicts of {tests} count, whatever a mark or plugin made of them: {shortened(results.forgiven)}"
            )

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the tables, and where the report is."""
        report = self._report
        if not (report.comparisons or report.causes or report.controls or self._written):
            return
        terminalreporter.write_sep("=", printable(f"quantcheck: {report.model}"))
        width, verbosity = min(self._announcer.width, WIDEST), self.config.option.verbose
        lines = summary_lines(report, brief=self._failures_are_shown, width=width, verbosity=verbosity)
        for line, markup in chain(lines, control_lines(report.controls, width=width)):
            terminalreporter.write_line(line, **markup)
        for remark in self._written:
            for line, markup in remark_lines(remark, width=width):
                terminalreporter.write_line(line, **markup)

    def _check_calibration(self) -> tuple[str, int] | None:
        """Find the name and version of the profile to write."""
        settings = self.settings
        if not settings.calibrate:
            return None
        fewest = min(len(prompts) for prompts in self.gate.prompt_sets.values())
        directory = Path(settings.calibrate_directory)
        return check_calibration(
            settings.calibrate, directory=directory, rate=settings.calibrate_rate, n_prompts=fewest
        )

    def _write_profile(self, session: pytest.Session, name: str, version: int) -> str:
        """Write what the controls say limits should be; a profile that was asked for and is not there fails the run."""
        settings, comparisons = self.settings, self.results.calibrated
        damaged = [comparison for comparison in comparisons if CONTROLS[comparison.candidate].kind == "defect"]
        harmless = [comparison for comparison in comparisons if comparison not in damaged]
        try:
            if not (harmless and damaged):
                raise SettingsError("it needs nulls and defects, and this run has left the one or the other out")
            text = draft_profile(harmless, damaged, name=name, version=version, rate=settings.calibrate_rate)
            path = save_profile(text, directory=Path(settings.calibrate_directory), name=name, version=version)
        except (QuantcheckError, OSError) as error:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return f"no profile {name}@{version} is written: {error}"
        return f"profile: {path}, used with --quantcheck-profile={path}"

    @property
    def _report(self) -> Report:
        """All that was found so far."""
        results, created = self.results, datetime.now(UTC)
        return Report(
            schema=2,
            tool_version=importlib.metadata.version("pytest-quantcheck"),
            created=created,
            outcome=results.outcome,
            model=self.gate.model,
            profile=self.gate.profile.label,
            settings=asdict(self.settings),
            verdicts=tuple(results.verdicts),
            comparisons=tuple(results.comparisons),
            causes={candidate: tuple(causes) for candidate, causes in results.causes.items()},
            not_run=results.not_run,
            certificate=self._certificate(created) if results.controls else None,
        )

    def _certificate(self, created: datetime) -> Certificate:
        return certify(
            self.results.controls,
            whole=not any(omission.candidate in CONTROLS for omission in self.results.not_run),
            model=self.gate.model,
            profile=self.gate.profile.label,
            tool_version=importlib.metadata.version("pytest-quantcheck"),
            created=created,
        )

    @property
    def _idle(self) -> bool:
        """Whether this run carries out no test."""
        option = self.config.option
        return bool(self.settings.dry_run or option.collectonly or option.setuponly or option.setupplan)

    @property
    def _is_worker(self) -> bool:
        """Whether this is a process of xdist's, which reports to its controller."""
        return hasattr(self.config, "workerinput")

    @property
    def _failures_are_shown(self) -> bool:
        """Whether pytest has printed the text of each failure, above the summary."""
        return self.config.option.tbstyle not in {"no", "line"} and not self.results.forgiven

    @property
    def _outline(self) -> Outline:
        gate = self.gate
        return Outline(
            self.settings,
            gate.model,
            gate.candidates,
            gate.controls,
            gate.prompt_sets,
            gate.metrics,
            gate.profile,
        )

    def _report_plan(self) -> str:
        """Say where the report would be, or why it could not be; a run goes on without one."""
        if not self.settings.report:
            return ""
        try:
            check_writable("--quantcheck-report", Path(self.settings.report), REPORT, PAGE)
        except QuantcheckError as error:
            return str(error)
        return f"would be written into {self.settings.report}"


def _refuse_xdist_beside(settings: Settings, config: pytest.Config) -> None:
    """Refuse two that would divide the same work."""
    if settings.engine != "local" and (config.getoption("dist", "no") != "no" or hasattr(config, "workerinput")):
        raise SettingsError(
            f"--quantcheck-engine={settings.engine} and pytest-xdist's -n would both divide the work, and each process "
            "of xdist's would start workers: leave -n out, or the engine"
        )


def _check_limits(gate: Gate) -> None:
    """Refuse what these prompts can never decide: a profile, or one metric.

    Raises:
        SettingsError: on some prompt set each metric is gated only from more prompts up than there are, or too few
            prompts are attributed.
    """
    attributed = gate.settings.attribution_samples
    for metric in map(METRICS.__getitem__, gate.metrics):
        allowed = metric.name in gate.profile.allow_unmeasured
        if "attributions" in metric.needs and attributed < metric.fewest and not allowed:
            raise SettingsError(
                f"{metric.title} would be unmeasured: expected at least {metric.fewest} attributed prompts, got "
                f"{attributed}. Raise --quantcheck-attribution-samples, or let it pass unmeasured: "
                f"--quantcheck-allow-unmeasured={metric.name}"
            )
    name, prompts = min(gate.prompt_sets.items(), key=lambda item: len(item[1]))
    fewest = min((gate.profile.fewest_prompts(metric) for metric in gate.metrics), default=0)
    if len(prompts) < fewest or not gate.metrics:
        few = f"gates from {fewest:,} prompts up, and {name} has {len(prompts):,}"
        why = few if gate.metrics else "limits no metric that is measured"
        raise SettingsError(
            f"nothing would be judged: {gate.profile.label} {why}; measure more prompts (--quantcheck-samples, "
            "--quantcheck-prompts) or choose another profile"
        )


def _with_shared_cache(config: pytest.Config, settings: Settings) -> Settings:
    """Add a temporary cache for xdist's workers, where there is none.

    One worker measures a model, and the others take what it found.
    """
    if hasattr(config, "workerinput"):
        return replace(settings, cache=config.workerinput[_CACHE])
    if settings.cache or not getattr(config.option, "tx", None):
        return settings
    folder = TemporaryDirectory(prefix="quantcheck-")
    config.add_cleanup(folder.cleanup)
    return replace(settings, cache=folder.name)

"""One pytest run with a gate: what it collects, announces, gathers and reports."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from .acceptance import CALIBRATED, CONTROL, AcceptanceSuite, PackagedItem, check_names, is_suite, own_nodeid
from .calibrating import calibrated, check_calibration, save_calibrated
from .certifying import Certificate, ControlResult, certify, in_order
from .controls import CONTROLS
from .errors import QuantcheckError, SettingsError
from .gate import Gate
from .options import Settings
from .records import Comparison, Verdict
from .report_files import REPORT, write_report
from .reporting import (
    WIDEST,
    Progress,
    control_lines,
    encode_certificate,
    encode_report,
    markdown_lines,
    printable,
    summary_lines,
)
from .step_summary import append_to_step_summary
from .storage import check_writable

CERTIFICATE = "certificate.json"
_CARRIED = "quantcheck"
_CANDIDATE = "candidate"
_CACHE = "quantcheck_cache"
_CHANNEL = "quantcheck_channel"
_CUT = "no report: the run was cut short"
_LIBRARIES = ("torch", "transformers", "bitsandbytes")


class Session:
    """Also the listener that gathers verdicts from reports, wherever the tests ran."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config, self.settings = config, settings
        self.gate = Gate(_with_shared_cache(config, settings), self._progress)
        self._wanted, alone = _take_node_ids(config, only=settings.only)
        check_names(self.gate, self._wanted)
        self._announced = False
        self._outcomes: set[str] = set()
        self._written: list[str] = []
        self._verdicts: list[Verdict] = []
        self._comparisons: dict[tuple[str, str], Comparison] = {}
        self._causes: dict[str, list[str]] = {}
        self._controls: list[ControlResult] = []
        self._calibrated: list[Comparison] = []
        self._label = self._check_calibration()
        if settings.report:
            check_writable("--quantcheck-report", Path(settings.report))
        if settings.update_baseline and settings.baseline:
            check_writable("--quantcheck-baseline", Path(settings.baseline))
        if alone:
            config.args = []

    def header(self) -> list[str]:
        """Lines for the top of pytest's output."""
        asked, gate = self.settings, self.gate
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
        revision = f" at {asked.revision}" if asked.revision else ""
        prompts = ", ".join(f"{name} ({len(prompts)} prompts)" for name, prompts in gate.prompt_sets.items())
        controls = f" and {len(gate.controls)} controls" if gate.controls else ""
        candidates, profile = ", ".join(gate.candidates) + controls, gate.profile.label
        stored = f", its baseline in {asked.baseline}" if asked.baseline else ""
        lines = [
            f"quantcheck: {gate.model}{revision} ({asked.dtype}{stored}) against {candidates}; profile {profile}",
            f"quantcheck: {prompts}; device {asked.device}, batch size {asked.batch_size}",
            f"quantcheck: {versions}",
        ]
        return list(map(printable, lines))

    def collect(self, session: pytest.Session) -> list[pytest.Item]:
        """The packaged suite's items, or those of them that the command line names."""
        return list(session.genitems(AcceptanceSuite.of(session, self.gate, self._wanted)))

    def dry_run(self) -> bool | None:
        """Say what would be measured and take the place of the tests; None when this is no dry run."""
        if not self.settings.dry_run:
            return None
        for line in self._plan_lines() if self._terminal else ():
            self._terminal.write_line(line)
        return True

    def attach(self, item: pytest.Item, report: Any) -> None:
        """Give a packaged test's report what the test found, in a form that survives the way from a worker."""
        if isinstance(item, PackagedItem):
            carried = {kind: msgspec.json.encode(record).decode() for kind, record in item.found.items()}
            setattr(report, _CARRIED, carried | {_CANDIDATE: item.candidate})

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker where measurements are shared, and where it can say how far it is."""
        node.workerinput[_CACHE] = self.gate.settings.cache
        if self._watched:
            node.workerinput[_CHANNEL] = channel = node.gateway.newchannel()
            channel.setcallback(self._write_from_worker)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome of a packaged test, and the verdict that its report carries."""
        if is_suite(report.nodeid):
            self._outcomes.add(report.outcome)
        carried = getattr(report, _CARRIED, {})
        if report.failed and _CANDIDATE in carried and not carried.keys() & {"verdict", CONTROL}:
            self._causes.setdefault(carried[_CANDIDATE], []).append(_cause(report))
        if "verdict" in carried:
            self._verdicts.append(msgspec.json.decode(carried["verdict"], type=Verdict))
        if "comparison" in carried:
            comparison = msgspec.json.decode(carried["comparison"], type=Comparison)
            self._comparisons[comparison.candidate, comparison.prompt_set] = comparison
        if CALIBRATED in carried:
            self._calibrated.append(msgspec.json.decode(carried[CALIBRATED], type=Comparison))
        if CONTROL in carried:
            self._controls.append(msgspec.json.decode(carried[CONTROL], type=ControlResult))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report and the profile that are asked for, once all reports have come; also without a terminal."""
        if not self._outcomes or hasattr(self.config, "workerinput"):
            return
        cut = exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        if self.settings.report:
            whole = not (session.shouldfail or session.shouldstop)
            make, directory = partial(self._files, whole=whole), Path(self.settings.report)
            self._written = [_CUT] if cut else write_report(directory, make, self.gate.prompt_sets)
        if self._label and not cut:
            self._written.append(self._write_profile(session, *self._label))
        problem = append_to_step_summary(self._markdown(cut=cut))
        self._written += [problem] if problem else []

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the tables, and where the report is."""
        if not (self._comparisons or self._causes or self._controls or self._written):
            return
        terminalreporter.write_sep("=", printable(f"quantcheck: {self.gate.model}"))
        found, width = self._in_order(), min(self._width, WIDEST)
        verbosity = self.config.option.verbose
        for line, markup in summary_lines(*found, causes=self._causes, width=width, verbosity=verbosity):
            terminalreporter.write_line(line, **markup)
        for line, markup in control_lines(in_order(self._controls), width=width):
            terminalreporter.write_line(line, **markup)
        for line in self._written:
            terminalreporter.write_line(printable(line))

    def _markdown(self, *, cut: bool) -> Iterator[str]:
        verdicts, comparisons = self._in_order()
        remarks = ["the run was cut short"] if cut else []
        controls = in_order(self._controls)
        return markdown_lines(
            self.gate.model, verdicts, comparisons, causes=self._causes, controls=controls, remarks=remarks
        )

    def _in_order(self) -> tuple[list[Verdict], list[Comparison]]:
        """Verdicts and comparisons as the suite has them, whichever worker was first."""
        return sorted(self._verdicts, key=self._place), sorted(self._comparisons.values(), key=self._place)

    def _check_calibration(self) -> tuple[str, int] | None:
        """The name and version of the profile to be written; what cannot be is refused before anything is loaded."""
        asked = self.settings
        if not asked.calibrate:
            return None
        fewest = min(len(prompts) for prompts in self.gate.prompt_sets.values())
        directory = Path(asked.calibrate_directory)
        return check_calibration(asked.calibrate, directory=directory, rate=asked.calibrate_rate, n_prompts=fewest)

    def _write_profile(self, session: pytest.Session, name: str, version: int) -> str:
        """Write what the controls say limits should be; a profile that was asked for and is not there fails the run."""
        asked, found = self.settings, self._calibrated
        damaged = [comparison for comparison in found if CONTROLS[comparison.candidate].kind == "defect"]
        harmless = [comparison for comparison in found if comparison not in damaged]
        try:
            if not (harmless and damaged):
                raise SettingsError("it needs nulls and defects, and this run has left the one or the other out")
            text = calibrated(harmless, damaged, name=name, version=version, rate=asked.calibrate_rate)
            path = save_calibrated(text, directory=Path(asked.calibrate_directory), name=name, version=version)
        except (QuantcheckError, OSError) as error:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return f"no profile {name}@{version} is written: {error}"
        return f"profile: {path}, used with --quantcheck-profile={path}"

    def _files(self, *, whole: bool) -> dict[str, bytes]:
        certificate = self._certificate(whole=whole) if self._controls else None
        files = {REPORT: self._report(certificate, whole=whole)}
        return files | {CERTIFICATE: encode_certificate(certificate)} if certificate else files

    def _certificate(self, *, whole: bool) -> Certificate:
        return certify(
            self._controls,
            whole=whole,
            model=self.gate.model,
            profile=self.gate.profile.label,
            tool_version=importlib.metadata.version("pytest-quantcheck"),
            created=datetime.now(UTC),
        )

    def _report(self, certificate: Certificate | None, *, whole: bool) -> bytes:
        passed = whole and self._verdicts and "failed" not in self._outcomes
        return encode_report(
            *self._in_order(),
            outcome="passed" if passed else "failed",
            profile=self.gate.profile.label,
            settings=asdict(self.settings),
            tool_version=importlib.metadata.version("pytest-quantcheck"),
            created=datetime.now(UTC),
            certificate=certificate,
        )

    def _place(self, found: Verdict | Comparison) -> tuple[int, ...]:
        """Where a record stands in a report: as the suite has it, whichever worker was first."""
        gate = self.gate
        place = [gate.candidates.index(found.candidate), list(gate.prompt_sets).index(found.prompt_set)]
        return (*place, gate.metrics.index(found.metric)) if isinstance(found, Verdict) else tuple(place)

    def _plan_lines(self) -> list[str]:
        asked, gate = self.settings, self.gate
        stored = asked.baseline and not asked.update_baseline
        reference = f"taken from {asked.baseline}" if stored else f"measured ({asked.dtype})"
        return [
            f"dry run: nothing is loaded. The reference {gate.model} would be {reference}",
            f"candidates: {', '.join(gate.candidates)}",
            *(f"prompts: {len(p)} of {name} from {p.source}" for name, p in gate.prompt_sets.items()),
            f"attribution: {asked.attribution} on {asked.attribution_samples} prompts; layers: {asked.layers}",
            f"verdicts: {', '.join(gate.metrics)} by {gate.profile.label}",
            *([f"controls: {', '.join(gate.controls)}"] if gate.controls else ()),
            *([f"limits would be written as {self._label[0]}@{self._label[1]}"] if self._label else ()),
        ]

    def _progress(self, label: str) -> AbstractContextManager[Any]:
        """Who is told how far a measurement is: the terminal, or from an xdist worker the controller's."""
        if hasattr(self.config, "workerinput"):
            channel, alone = self.config.workerinput.get(_CHANNEL), not self.settings.cache
            return Progress(channel.send, subject=label, interactive=False, alone=alone) if channel else nullcontext()
        if not self._watched:
            return nullcontext()
        self._announced = False
        interactive = bool(self._terminal.isatty) and "CI" not in os.environ
        return Progress(self._write, subject=label, interactive=interactive, width=self._width)

    @property
    def _watched(self) -> bool:
        """Whether there is a terminal that wants to know how far it is."""
        return self._terminal is not None and self.config.option.verbose >= 0

    def _write(self, text: str) -> None:
        """Write to the terminal past pytest's capture."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if not self._announced:
                self._terminal.ensure_newline()
            self._announced = True
            self._terminal.write(text, flush=True)

    def _write_from_worker(self, text: str) -> None:
        """Write a worker's line below the dots; a terminal that is gone is no reason to hang up on the worker."""
        with suppress(OSError, ValueError):
            begun = self.config.get_terminal_writer().width_of_current_line
            self._terminal.write("\n" * bool(begun) + text, flush=True)

    @property
    def _width(self) -> int:
        return int(self.config.get_terminal_writer().fullwidth)

    @property
    def _terminal(self) -> Any:
        """The terminal reporter; None in an xdist worker."""
        return self.config.pluginmanager.get_plugin("terminalreporter")


def _cause(report: pytest.TestReport) -> str:
    """What went wrong in a test that reached no verdict: the error's first line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return next(iter((crash.message if crash else report.longreprtext).splitlines()), "an error without a message")


def _take_node_ids(config: pytest.Config, *, only: bool) -> tuple[list[str], bool]:
    """Take the packaged suite's node ids from the command line; also say whether nothing else is collected.

    Both are kept among the options, which xdist hands to its workers; arguments that were taken it does not.
    """
    if not hasattr(config.option, "quantcheck_node_ids"):
        wanted = [argument for argument in config.args if is_suite(argument)]
        config.args = [argument for argument in config.args if argument not in wanted]
        config.option.quantcheck_node_ids = [own_nodeid(argument) for argument in wanted]
        config.option.quantcheck_alone = only or not config.args
    return config.option.quantcheck_node_ids, config.option.quantcheck_alone


def _with_shared_cache(config: pytest.Config, settings: Settings) -> Settings:
    """The settings, with a cache that xdist's workers share for as long as the run lasts if the user names none.

    One worker measures a model, and the others take what it found.
    """
    if hasattr(config, "workerinput"):
        return replace(settings, cache=config.workerinput[_CACHE])
    if settings.cache or not getattr(config.option, "tx", None):
        return settings
    folder = TemporaryDirectory(prefix="quantcheck-")
    config.add_cleanup(folder.cleanup)
    return replace(settings, cache=folder.name)

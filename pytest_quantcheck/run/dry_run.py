"""What a dry run finds out: everything of a run's models that can be known without their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.models.checksums import verify
from pytest_quantcheck.models.files import ModelFiles, resolve_files
from pytest_quantcheck.models.source import is_offline, local_path
from pytest_quantcheck.options import Settings
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.targets import Target, Targets
from pytest_quantcheck.serving import refuse_unlike
from pytest_quantcheck.text import counted, duration, shortened

if TYPE_CHECKING:
    from pytest_quantcheck.run.reporters import Progress
    from pytest_quantcheck.run.trial import Duration

_MOST_BYTES = 2_000_000_000
"""Bytes of each model whose checksums are verified in a dry run: some seconds."""

_TRIAL = "whether the weights load and fit into memory, and how long the run takes (--quantcheck-trial shows both)"

_SERVED_BY = {"format", "header", "configuration", "tokenizer"}
"""The checks without which it cannot be read how a model is served."""


@dataclass
class Findings:
    """What was found; `problems` end a run, or what is said of one of its candidates.

    `durations`: how long a run would take for each of its models, if that was tried.
    """

    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    durations: list[Duration] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what was found, problems last."""
        yield from (f"checked: {what}" for what in self.checked)
        if self.durations:
            each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.durations)
            total = sum(seconds for _, seconds in self.durations)
            yield f"the run would take about {duration(total)} on this machine, one model after another: {each}"
        unchecked = self.unchecked if self.durations else [_TRIAL, *self.unchecked]
        yield from [f"not checked: {'; '.join(unchecked)}"] if unchecked else []
        yield from (f"problem: {problem}" for problem in self.problems)


def check_run(gate: Gate, progress: Progress | None = None) -> Findings:
    """Check the device and the files of a run's models; nothing is fetched from a hub.

    A trial then loads them, if nothing is wrong; `progress` makes its progress reporters.
    """
    findings, settings = Findings(), gate.settings
    if settings.engine == "ray":
        findings.unchecked.append("whether the Ray cluster is there, and has room for the workers and their models")
    elif settings.device.startswith("cuda"):
        _try(findings, lambda: _check_device(settings.device))
    readable = dict(_of_the_package(gate.targets))
    for target in _with_files(settings, gate.targets):
        if local_path(target.source.model) is None and not is_offline():
            findings.unchecked.append(f"the files of {target.label}, which a run fetches from the hub")
            continue
        _try(findings, partial(_check_files, findings, target, readable))
    if settings.engine == "local":
        _check_placements(findings, gate, readable)
    for target in gate.targets.candidates:
        if target in readable:
            _try(findings, partial(_compare_with_reference, findings, gate, target, readable))
    _try(findings, partial(_check_prompts, findings, gate, readable))
    if settings.trial and not findings.problems:
        _try(findings, partial(_time, findings, gate, progress))
    return findings


def _with_files(settings: Settings, targets: Targets) -> Iterator[Target]:
    """Yield the models whose files a run needs; those of the built-in model came with the package."""
    stored = settings.baseline is not None and not settings.update_baseline
    if not stored or settings.bits or targets.controls:
        yield from [targets.reference] * (targets.reference.source.model != "builtin")
    yield from (target for target in targets.candidates if target.kind == "checkpoint")


def _of_the_package(targets: Targets) -> Iterator[tuple[Target, ModelFiles]]:
    """Yield the built-in model, whose files need no check, and the files."""
    if targets.reference.source.model == "builtin":
        yield targets.reference, resolve_files(targets.reference.source)


def _check_files(findings: Findings, target: Target, readable: dict[Target, ModelFiles]) -> None:
    """Check a target's files; keep them if it can be read how it is served."""
    from pytest_quantcheck.models.file_checks import CHECKS  # noqa: PLC0415 - heavy

    files = resolve_files(target.source)
    if files.is_one_file:
        findings.unchecked.append(f"the tokenizer of {target.label}")
    if files.is_pickled:
        findings.unchecked.append(f"the pickled weights of {target.label}")
    passed, failed = [], set[str]()
    for check in CHECKS:
        if not check.applies(files, target.load_as):
            continue
        if failed.intersection(check.after):
            failed.add(check.title)
            continue
        quick = partial(_verify_in_time, findings, target, files)
        run = quick if check.reads == "bytes" else partial(check.run, files, target.load_as)
        if _try(findings, run):
            passed.append(check.title)
        else:
            failed.add(check.title)
    if failed.isdisjoint(_SERVED_BY):
        readable[target] = files
    if passed:
        findings.checked.append(f"{', '.join(passed)} of {target.label}")


def _check_placements(findings: Findings, gate: Gate, readable: Mapping[Target, ModelFiles]) -> None:
    """Check that each model's weights have room."""
    from pytest_quantcheck.models.loading import check_placement  # noqa: PLC0415 - heavy

    for target in gate.loaded:
        files = readable.get(gate.targets.reference if target.kind == "bit_width" else target)
        if files:
            _try(findings, partial(check_placement, files, target.load_as))


def _compare_with_reference(
    findings: Findings, gate: Gate, target: Target, readable: Mapping[Target, ModelFiles]
) -> None:
    """Refuse a candidate that would not be served as the reference is."""
    from pytest_quantcheck.models.served_fields import served_fields  # noqa: PLC0415 - heavy

    reference = gate.targets.reference
    expected = gate.stored_configuration
    if expected is None and reference in readable:
        expected = served_fields(readable[reference], reference.load_as)
    if expected is None:
        findings.unchecked.append(f"whether {target.label} is served as the reference is")
        return
    obtained = served_fields(readable[target], target.load_as)
    refuse_unlike(target.label, expected, obtained, gate.settings.allow_difference)
    findings.checked.append(f"configuration of {target.label} against the reference's")


def _check_prompts(findings: Findings, gate: Gate, readable: Mapping[Target, ModelFiles]) -> None:
    """Let the reference's tokenizer read every prompt; it has read those of a baseline."""
    files = readable.get(gate.targets.reference)
    if gate.stored_configuration is not None or files is None:
        return
    from pytest_quantcheck.measuring.tokenized import tokenize_all  # noqa: PLC0415 - heavy

    for name, found in tokenize_all(files, gate.prompt_sets, gate.settings.readout).items():
        inputs = counted(len(found.distinct), "distinct input")
        findings.checked.append(f"the prompts of {name}: {inputs} of {counted(len(found.encoded), 'prompt')}")


def _verify_in_time(findings: Findings, target: Target, files: ModelFiles) -> None:
    """Verify checksums as far as that is quick."""
    if left_out := verify(files, _MOST_BYTES):
        names = shortened(left_out, most=1)
        findings.unchecked.append(f"the sha256 of {names} of {target.label}, which takes long")


def _time(findings: Findings, gate: Gate, progress: Progress | None) -> None:
    """Time each model; a part of the models says nothing of the whole run."""
    from pytest_quantcheck.run.trial import time_run  # noqa: PLC0415 - heavy

    findings.durations = list(time_run(gate, progress))


def _check_device(device: str) -> None:
    from pytest_quantcheck.models.pretrained import choose_device  # noqa: PLC0415 - heavy

    choose_device(device)


def _try(findings: Findings, check: Callable[[], object]) -> bool:
    """Run a check and keep its problem, once; return whether it passed."""
    try:
        check()
    except (QuantcheckError, OSError) as problem:
        if str(problem) not in findings.problems:
            findings.problems.append(str(problem))
        return False
    return True

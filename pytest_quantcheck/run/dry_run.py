"""What a dry run finds out: everything of a run's models that can be known without their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.models.source import (
    Source,
    check_regular,
    is_offline,
    local_path,
    local_source,
    refuse_quantized,
    verify,
)
from pytest_quantcheck.options import Settings
from pytest_quantcheck.records import RELEASED
from pytest_quantcheck.run.targets import Target, Targets

_MOST_BYTES = 2_000_000_000
"""Bytes of each model whose checksums are verified in a dry run: some seconds."""

_NEVER = "whether the weights load and fit into memory, and whether each candidate was made from the reference"


@dataclass
class Findings:
    """What was found; `problems` end a run, or what is said of one of its candidates."""

    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what was checked, what was not, and each problem."""
        yield from (f"checked: {what}" for what in self.checked)
        yield f"not checked: {'; '.join([_NEVER, *self.unchecked])}"
        yield from (f"problem: {problem}" for problem in self.problems)


def check_run(settings: Settings, targets: Targets) -> Findings:
    """Check the device and the files of a run's models; nothing is fetched from a hub."""
    findings = Findings()
    if settings.device.startswith("cuda"):
        _try(findings, lambda: _check_device(settings.device))
    for target in _with_files(settings, targets):
        if local_path(target.source.model) is None and not is_offline():
            findings.unchecked.append(f"the files of {target.label}, which a run fetches from the hub")
            continue
        _try(findings, lambda target=target: _check_files(findings, target, local_source(target.source)))  # type: ignore[misc]
    return findings


def _with_files(settings: Settings, targets: Targets) -> Iterator[Target]:
    """Yield the models whose files a run needs; those of the built-in model came with the package."""
    stored = settings.baseline is not None and not settings.update_baseline
    if not stored or settings.bits or targets.controls:
        yield from [targets.reference] * (targets.reference.source.model != "builtin")
    yield from (target for target in targets.candidates if target.kind == "checkpoint")


def _check_files(findings: Findings, target: Target, source: Source) -> None:
    if not _try(findings, lambda: check_regular(source)):
        return  # the libraries would wait for a pipe
    sums = _check_sums(findings, target, source)
    from pytest_quantcheck.models.file_checks import is_pickled  # noqa: PLC0415 - heavy
    from pytest_quantcheck.models.pretrained import check_folder  # noqa: PLC0415 - heavy
    from pytest_quantcheck.models.released import find_file_format  # noqa: PLC0415 - heavy

    if packed := find_file_format(source) is not None:
        findings.unchecked.append(f"the tokenizer of {target.label}")
    elif not _try(findings, lambda: check_folder(source)):
        return
    elif is_pickled(source):
        findings.unchecked.append(f"the pickled weights of {target.label}")
    passed = [*sums, *(what for what, check in _checks(target, source, packed=packed) if _try(findings, check))]
    if passed:
        findings.checked.append(f"{', '.join(passed)} of {target.label}")


def _check_sums(findings: Findings, target: Target, source: Source) -> list[str]:
    """Verify checksums as far as that is quick; return how that is called where there are any."""
    left_out: list[list[str] | None] = []
    if not _try(findings, lambda: left_out.append(verify(source, _MOST_BYTES))) or left_out == [None]:
        return []
    for names in filter(None, left_out):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        findings.unchecked.append(f"the sha256 of {names[0]}{more} of {target.label}, which takes long")
    return ["checksums"]


def _checks(target: Target, source: Source, *, packed: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield checks by what they look at."""
    from pytest_quantcheck.models import file_checks, released  # noqa: PLC0415 - heavy

    if target.load_as == RELEASED:
        yield "format", lambda: released.check(source, RELEASED)
    elif packed:
        yield "header", lambda: released.read_header(source)
    else:
        yield "precision", lambda: refuse_quantized(source)
        yield "configuration", lambda: file_checks.check_config(source, target.load_as)
    if not packed:
        yield "tokenizer", lambda: file_checks.check_tokenizer(source, target.load_as)
        if not file_checks.is_pickled(source):
            yield "headers of the weights", lambda: file_checks.check_weights(source)


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

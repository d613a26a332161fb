"""A release played from end to end: a stored baseline, three quantized checkpoints, gated without the reference.

    python -m tests.studies.release --model MODEL --folder FOLDER [--prompts P] [--template T] [--samples N] …

FOLDER gets the reference as a plain checkpoint, its baseline, one directory for each quantized checkpoint with its
`SHA256SUMS`, and the reports. Each checkpoint is gated twice: with the reference at hand, and against the baseline
after the reference's directory has been moved away. Then copies with one damage each are gated against the baseline,
with the checksums that were released with the original and without any. What is printed is Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from pytest_quantcheck.commands.parser import parser as measuring_parser
from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.formats.bitsandbytes import quantization_config
from pytest_quantcheck.models.released import unpacked
from pytest_quantcheck.models.source import Source, declared, local_path
from pytest_quantcheck.reporting import Report
from tests.studies.tampering import TAMPERS, Tamper

FORMATS = ("bitsandbytes-int8", "bitsandbytes-nf4", "torchao-int8")
METRICS = ("kl_divergence", "redundancy_change")
"""What is printed of each checkpoint beside its verdicts."""

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Gated:
    """What one run of pytest said of one checkpoint: its status, its time, its report if there is one, its errors.

    `seconds` by the clock, and `busy`, of processors, which other work on the machine does not lengthen.
    """

    status: int
    seconds: float
    busy: float
    report: Report | None
    errors: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """In a few words: passed, what stands against it, or the error that kept it from being measured."""
        if self.report is None or not self.report.verdicts:
            return f"error: {textwrap.shorten(self.errors[0], 160) if self.errors else 'no verdict'}"
        against = [verdict.metric for verdict in self.report.verdicts if not verdict.acceptable]
        return f"not fit: {', '.join(against)}" if against else "passed"

    def value(self, metric: str) -> str:
        """The metric's estimate at its worst layer; a dash where there is none."""
        found = [e.value for c in self.report.comparisons for e in c.of(metric)] if self.report else []
        numbers = [value for value in found if value is not None]
        return f"{max(numbers):.4g}" if numbers else "-"

    @property
    def content(self) -> str | None:
        """The hash of the files that were measured."""
        found = self.report.comparisons if self.report else ()
        return found[0].candidate_provenance.content_hash if found else None


@dataclass(frozen=True)
class Release:
    """One release in a folder; `options` are those that measuring and gating share, as `measure` spells them.

    `judging`: those of gating alone, spelled in the same way.
    """

    folder: Path
    options: tuple[str, ...] = ()
    judging: tuple[str, ...] = ()

    @property
    def reference(self) -> Path:
        """The model at full precision, a plain checkpoint."""
        return self.folder / "reference"

    @property
    def baseline(self) -> Path:
        """Its stored measurements."""
        return self.folder / "baseline"

    def checkpoint(self, name: str) -> Path:
        """A quantized checkpoint that is released."""
        return self.folder / "released" / name

    def unpack(self, model: str, dtype: str) -> None:
        """Copy the model into the folder, a GGUF file as a plain checkpoint."""
        path = local_path(model)
        if path is None:
            raise ModelError(
                f"{model}: expected a directory, a .gguf file or builtin; a hub id has to be fetched first"
            )
        if path.suffix == ".gguf":
            self.reference.mkdir(parents=True)
            unpacked(resolve_files(Source(model, dtype=dtype)), self.reference)
        else:
            unwanted = shutil.ignore_patterns("*.py", "*.jsonl", "__pycache__")  # of the built-in model's package
            shutil.copytree(path, self.reference, ignore=unwanted)

    def measure(self) -> float:
        """Measure the reference and store the baseline, as on the big machine; the seconds it took."""
        where = ("--model", str(self.reference), "--out", str(self.baseline))
        done, seconds, _ = _timed([sys.executable, "-m", "pytest_quantcheck", "measure", *where, *self.options])
        if done.returncode:
            raise ModelError(done.stderr.strip())
        print(done.stdout, flush=True)
        return seconds

    def quantize(self, name: str) -> None:
        """Save the reference in one format, with its tokenizer and checksums, as whoever releases it would."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = self.checkpoint(name)
        dtype = getattr(torch, declared(str(self.reference)).get("dtype") or "float32")
        model = AutoModelForCausalLM.from_pretrained(
            self.reference, quantization_config=_quantization(name, dtype), dtype=dtype, device_map={"": "cpu"}
        )
        model.save_pretrained(path)
        AutoTokenizer.from_pretrained(self.reference).save_pretrained(path)
        write_sums(path)

    def move_away(self) -> None:
        """The reference's directory is no longer where it was, nor on the machine that gates."""
        self.reference.rename(self.folder / "moved-away")

    def gate(self, checkpoint: Path, *, baseline: bool) -> Gated:
        """Gate a saved directory by pytest in a process of its own, against the baseline or the reference itself."""
        report = self.folder / "reports" / f"{checkpoint.name}{'' if baseline else '-without-baseline'}"
        shutil.rmtree(report, ignore_errors=True)
        (self.folder / "empty").mkdir(exist_ok=True)
        shared = [
            f"--quantcheck-{part[2:]}" if part.startswith("--") else part for part in (*self.options, *self.judging)
        ]
        done, seconds, busy = _timed(
            [
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--quantcheck-only"),
                f"--quantcheck-baseline={self.baseline}" if baseline else f"--quantcheck-model={self.reference}",
                f"--quantcheck-candidate={checkpoint}",
                f"--quantcheck-report={report}",
                *shared,
            ],
            self.folder / "empty",
        )
        found = report / "report.json"
        return Gated(
            done.returncode,
            seconds,
            busy,
            msgspec.json.decode(found.read_bytes(), type=Report) if found.exists() else None,
            tuple(_errors((done.stdout + done.stderr).replace(f"{self.folder}/", ""))),
        )

    def tampered(self, name: str, tamper: Tamper, *, sums: bool) -> Path:
        """A copy of a released checkpoint with one damage, with the checksums of the original or without any."""
        path = self.folder / "tampered" / f"{name}-{tamper.name}{'' if sums else '-no-sums'}"
        shutil.copytree(self.checkpoint(name), path)
        tamper.damage(path, self.layer)
        if not sums:
            (path / SUMS).unlink()
        return path

    @property
    def layer(self) -> int:
        """The middle block, which is one of those that are looked into."""
        config = json.loads(next(self.folder.glob("released/*/config.json")).read_text())
        return int((config["num_hidden_layers"] - 1) // 2)


def write_sums(directory: Path) -> None:
    """Write `SHA256SUMS` as `sha256sum *` prints it."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (directory / SUMS).write_text("".join(lines))


def _quantization(name: str, dtype: Any) -> Any:
    if name == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    return quantization_config(name.removeprefix("bitsandbytes-"), dtype)


def _timed(command: Sequence[str], cwd: Path | None = None) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run a command; also seconds by the clock and of processors."""
    env = os.environ | {"COLUMNS": "1000"}  # pytest shortens errors to the terminal's width
    began, busy = time.perf_counter(), _busy()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    return done, time.perf_counter() - began, _busy() - busy


def _busy() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _errors(output: str) -> Iterator[str]:
    """Each error of pytest's output once: usage errors, and those of the packaged suite's tests."""
    found = re.findall(r"^(?:ERROR: |E +|(?:FAILED|ERROR) \S*quantcheck::\S+ - )(.+)$", output, re.MULTILINE)
    yield from dict.fromkeys(found)


def table(before: Mapping[str, Gated], after: Mapping[str, Gated]) -> Iterator[str]:
    """Yield the verdicts on each checkpoint, and the seconds, with the reference at hand and without it."""
    times = "s", "s with the reference", "processor s", "with the reference"
    yield from _head("checkpoint", "against the baseline", *METRICS, "with the reference", *times)
    for name, found in after.items():
        first = before[name]
        same = "the same" if found.outcome == first.outcome else first.outcome
        seconds = [f"{value:.0f}" for value in (found.seconds, first.seconds, found.busy, first.busy)]
        yield _row(name, found.outcome, *map(found.value, METRICS), same, *seconds)


def tampered_table(release: Release, whole: Mapping[str, Gated], tampers: Sequence[Tamper] = TAMPERS) -> Iterator[str]:
    """Yield what is said of each damaged copy, with the original's checksums and without any."""
    yield from _head("checkpoint", "damage", "with checksums", "without", *METRICS, "content hash")
    for name, original in whole.items():
        for tamper in tampers:
            known, unknown = (
                release.gate(release.tampered(name, tamper, sums=sums), baseline=True) for sums in (True, False)
            )
            content = "-" if unknown.content is None else "same" if unknown.content == original.content else "another"
            yield _row(name, tamper.summary, known.outcome, unknown.outcome, *map(unknown.value, METRICS), content)


def play(release: Release, model: str, dtype: str, names: Sequence[str]) -> None:
    """Do all of it, and print it line by line."""
    release.unpack(model, dtype)
    print(f"Reference measured and stored in {release.measure():.0f} s.\n", flush=True)
    for name in names:
        release.quantize(name)
    before = {name: release.gate(release.checkpoint(name), baseline=False) for name in names}
    release.move_away()
    after = {name: release.gate(release.checkpoint(name), baseline=True) for name in names}
    for line in (*table(before, after), ""):
        print(line, flush=True)
    for line in tampered_table(release, after):
        print(line, flush=True)


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield _row(*["---"] * len(cells))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def parse(words: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: our own options, and those that measuring and gating share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory, .gguf file or builtin")
    parser.add_argument("--folder", required=True, type=Path, help="where everything is written; must not exist")
    parser.add_argument("--dtype", default="bf16", help="precision into which a GGUF file is unpacked")
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    asked, options = parser.parse_known_args(words)
    measuring_parser().parse_args(["measure", *options])  # a misspelled one is seen before anything is measured
    return asked, options


def main() -> None:
    """Play a release and print its tables."""
    asked, options = parse()
    asked.folder.mkdir(parents=True)
    release = Release(asked.folder.resolve(), tuple(options))
    play(release, asked.model, asked.dtype, asked.formats)


if __name__ == "__main__":
    main()

"""Outcomes of the tests that measure models, on lesser processors: `python -m tests.processors [PATH ...]`.

What a model computes depends on the processor's instruction sets and on the number of threads, by some roundings. A
test whose outcome depends on them holds on its author's machine only. So the tests that measure models run once at
each level of `LEVELS`, in two halves so that two processes always have work, and the outcome of each test is compared
between the levels. `make test` is one level more: this processor's own, with one thread.

The libraries choose their kernels when they are loaded, and environment variables lower that choice: of torch, oneDNN,
MKL, OpenBLAS and numpy. bitsandbytes has no such variable: `tests.lowered_bitsandbytes` lowers what Python chooses for
it. CONTRIBUTING.md says what cannot be lowered. A level never exceeds what the processor has: on a machine without
AVX2 the levels differ in their threads alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
FILES = {
    "benchmarks": ("attribution", "quantized_layers"),
    "commands": ("compare",),
    "controls": ("applying", "nulls", "rewrites"),
    "measuring": ("activations", "readouts", "streams"),
    "models": ("attribution", "gradients", "released"),
    "plugin": ("controls",),
    "run": ("gate",),
}
TESTS = {
    "page": ("page_is_written_beside_the_report", "page_lists_the_prompts_that_flipped"),
    "reports": ("report_keeps_to_its_schema", "doubt_is_one_line_among_the_warnings"),
    "suite": (
        "outcomes_are_the_verdicts",
        "failure_is_a_sentence_with_facts",
        "junit_names_and_properties",
        "first_failure_stops_and_last_failed_runs_again",
    ),
    "fixtures": ("models_and_gate_work", "candidate_fixture_loads_each", "only_the_unmet_limit_fails"),
}
"""Of files whose other tests are about words, files and options."""
PATHS = (
    *(f"tests/{room}/test_{name}.py" for room, names in FILES.items() for name in names),
    *(f"tests/plugin/test_{file}.py::test_{name}" for file, names in TESTS.items() for name in names),
)
"""The tests whose outcome follows from what a model computes; `python -m tests.processors tests/ROOM` runs others."""

WITHOUT_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # MKL heeds it on Intel's processors
    "OPENBLAS_CORETYPE": "Haswell",
    "PYTEST_PLUGINS": "tests.lowered_bitsandbytes",
}
WITHOUT_AVX = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",  # SSE2 on every processor
    "OPENBLAS_CORETYPE": "Nehalem",
    "PYTEST_PLUGINS": "tests.lowered_bitsandbytes",
}

LOOK = """
import numpy, scipy.linalg, threadpoolctl, torch
from bitsandbytes.functional import has_avx512bf16
blas = {library["architecture"] for library in threadpoolctl.threadpool_info() if "architecture" in library}
extensions = numpy.show_config(mode="dicts")["SIMD Extensions"]
numpys = (extensions["baseline"] + extensions.get("found", []))[-1]
packing = "packs" if has_avx512bf16() else "does not pack"
print(f"torch {torch.backends.cpu.get_cpu_capability()}, OpenBLAS {', '.join(sorted(blas))}, numpy {numpys}, "
      f"bitsandbytes {packing} 4-bit weights, threads {torch.get_num_threads()}")
"""


@dataclass(frozen=True)
class Level:
    """A processor to pretend: threads, environment variables, and beginnings of what numpy is to do without."""

    threads: int
    variables: dict[str, str] = field(default_factory=dict)
    numpy_without: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a process at this level."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        threads = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}
        return (
            os.environ
            | threads
            | self.variables
            | {
                "PYTHONPATH": path,
                "NPY_DISABLE_CPU_FEATURES": " ".join(self._numpy_features()),
            }
        )

    def _numpy_features(self) -> list[str]:
        import numpy as np

        found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
        return [name for name in found if name.startswith(self.numpy_without)]


LEVELS = {
    "no AVX": Level(1, WITHOUT_AVX, ("",)),
    "no AVX-512": Level(1, WITHOUT_AVX512, ("AVX512", "X86_V4")),
    "two threads": Level(2),
}


class LevelError(Exception):
    """Pytest did not get as far as outcomes at a level."""


@dataclass(frozen=True)
class Outcomes:
    """What became of each test at a level, why those failed that did, and how long it took."""

    by_test: dict[str, str]
    reasons: dict[str, str]
    seconds: float


def halves(paths: Sequence[str]) -> list[list[str]]:
    """Return the paths as two parts of about as many files, none of them empty: files of one room share fixtures."""
    files = list(dict.fromkeys(path.partition("::")[0] for path in paths))
    first = set(files[: (len(files) + 1) // 2])
    parts = [[path for path in paths if (path.partition("::")[0] in first) == is_first] for is_first in (True, False)]
    return [part for part in parts if part]


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of all parts as one."""
    return Outcomes(
        {test: end for part in parts for test, end in part.by_test.items()},
        {test: reason for part in parts for test, reason in part.reasons.items()},
        sum(part.seconds for part in parts),
    )


def look(level: Level) -> str:
    """Return which kernels the libraries choose in a process at this level."""
    plugins = level.variables.get("PYTEST_PLUGINS")
    code = f"import {plugins}\n{LOOK}" if plugins else LOOK
    done = subprocess.run(
        [sys.executable, "-c", code], env=level.environment(), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def run(level: Level, paths: Sequence[str]) -> Outcomes:
    """Return the outcomes of the tests under these paths in one process at a level."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--benchmark-disable", f"--junitxml={results}", *paths]
        done = subprocess.run(command, cwd=ROOT, env=level.environment(), capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1) or not results.exists():
            end = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise LevelError(f"expected pytest to end with 0 or 1, got {done.returncode}:\n{end}")
        cases = list(ET.parse(results).iter("testcase"))
    return Outcomes(
        {name_of(case): outcome_of(case) for case in cases},
        {name_of(case): reason_of(case) for case in cases},
        time.perf_counter() - start,
    )


def name_of(case: ET.Element) -> str:
    """Return a test's name in pytest's results."""
    return f"{case.get('classname')}::{case.get('name')}"


def outcome_of(case: ET.Element) -> str:
    """Return `passed`, `failed`, `error` or `skipped`."""
    found = {child.tag for child in case}
    return next((word for tag, word in _OUTCOMES.items() if tag in found), "passed")


_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}


def reason_of(case: ET.Element) -> str:
    """Return the first line of why a test did not pass."""
    return next((child.get("message", "").partition("\n")[0] for child in case if child.tag in _OUTCOMES), "")


def problems(found: Mapping[str, Outcomes]) -> Iterator[str]:
    """Yield each test that ends differently at two levels, or fails at all, with the levels and reasons.

    A test that is skipped at a level says itself that it does not hold there: the others are compared.
    """
    for test in sorted({test for outcomes in found.values() for test in outcomes.by_test}):
        ends = {level: outcomes.by_test.get(test, "not run") for level, outcomes in found.items()}
        kinds = set(ends.values()) - {"skipped"}
        if len(kinds) > 1 or kinds & {"failed", "error"}:
            yield f"{'DIFFERS' if len(kinds) > 1 else 'FAILS'} {test}"
            for level, end in ends.items():
                yield f"    {level}: {end} {found[level].reasons.get(test, '')}".rstrip()


def report(levels: Mapping[str, Level], paths: Sequence[str]) -> int:
    """Print what differs between the levels; return the exit status, 0 if nothing does and nothing fails."""
    print(f"{', '.join(paths)} at {len(levels)} levels, two processes at a time", flush=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        parts = {name: [pool.submit(run, level, half) for half in halves(paths)] for name, level in levels.items()}
        found = {name: joined([part.result() for part in own]) for name, own in parts.items()}
    for name, outcomes in found.items():
        counts = ", ".join(f"{count} {word}" for word, count in sorted(Counter(outcomes.by_test.values()).items()))
        print(f"{name}: {counts} in {outcomes.seconds:.0f} s")
    lines = list(problems(found))
    print("\n".join(lines) or "every test ends alike at every level, and none fails")
    return 1 if lines else 0


if __name__ == "__main__":
    for name, level in LEVELS.items():
        print(f"{name}: {look(level)}", flush=True)
    sys.exit(report(LEVELS, sys.argv[1:] or PATHS))

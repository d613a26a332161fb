"""Whether a change of the code changed a measured number: keep what runs give before it, and compare afterwards.

    python -m tests.studies.same_numbers keep before                            # the built-in model
    python -m tests.studies.same_numbers keep before --model FILE.gguf --prompts boolq.csv   # and a real one
    python -m tests.studies.same_numbers compare before after

`keep` runs the command line in fresh processes with one thread: a gate with controls, a baseline, a gate against it
and, where a model is named, a gate of that model on 64 prompts. `compare` compares every number, truth value and array
bit for bit, and exits with 1 where one differs; changed texts are counted apart. Keep both on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

TEMPLATE = r"Respond with True or False only.\n{prompt}\nAnswer:"
EXCLUDED = {"created", "tool_version", "schema", "settings", "path", "sha256", "arrays", "arrays_bytes"}
"""Fields that say when, where and by which release a record was made."""


def keep(out: Path, model: str | None, prompts: str | None) -> None:
    """Run everything and write reports and a baseline below `out`."""
    out = out.resolve()
    gate = ["-m", "pytest", "-p", "no:cacheprovider", "--quantcheck-only", "--quantcheck-bits=8,4"]
    _run([*gate, "--quantcheck-model=builtin", "--quantcheck-controls", f"--quantcheck-report={out / 'builtin'}"])
    stored = out / "baseline"
    _run(["-m", "pytest_quantcheck", "measure", "--model", "builtin", "--samples", "256", "--out", str(stored)])
    against = ["--quantcheck-model=builtin", f"--quantcheck-baseline={stored}", "--quantcheck-samples=256"]
    _run([*gate, *against, f"--quantcheck-report={out / 'from-baseline'}"])
    if model and prompts:
        model, prompts = (str(Path(path).resolve()) for path in (model, prompts))
        asked = [f"--quantcheck-model={model}", f"--quantcheck-prompts={prompts}", f"--quantcheck-template={TEMPLATE}"]
        _run([*gate, *asked, "--quantcheck-samples=64", f"--quantcheck-report={out / 'real'}"])


def differences(before: Path, after: Path) -> tuple[list[str], list[str], int]:
    """Compare two kept directories; return the different numbers, the changed texts, and how many were compared."""
    numbers, texts, count = [], [], 0
    names = sorted({path.relative_to(root) for root in (before, after) for path in root.rglob("report.json")})
    for name in names:
        old, new = (_report(root / name) for root in (before, after))
        count += len(old)
        for place in sorted(old.keys() | new.keys()):
            one, two = old.get(place, "absent"), new.get(place, "absent")
            if one != two:
                is_text = isinstance(one, str) and isinstance(two, str) and "absent" not in (one, two)
                (texts if is_text else numbers).append(f"{name} {place}: {one!r} before, {two!r} after")
    old_arrays, new_arrays = (dict(_arrays(root)) for root in (before, after))
    count += len(old_arrays)
    numbers += [
        f"baseline {name}: another array"
        for name in sorted(old_arrays.keys() | new_arrays.keys())
        if old_arrays.get(name) != new_arrays.get(name)
    ]
    return numbers, texts, count


def main(arguments: list[str] | None = None) -> int:
    """Keep or compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    keeping = verbs.add_parser("keep")
    keeping.add_argument("out", type=Path)
    keeping.add_argument("--model")
    keeping.add_argument("--prompts")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    asked = parser.parse_args(arguments)
    if asked.verb == "keep":
        keep(asked.out, asked.model, asked.prompts)
        return 0
    numbers, texts, count = differences(asked.before, asked.after)
    print(*numbers, *texts, sep="\n")
    print(f"{count} values compared: {len(numbers)} numbers differ, {len(texts)} texts differ")
    return 1 if numbers or not count else 0


def _run(command: list[str]) -> None:
    """Run Python in an empty directory with one thread; a red gate is a result."""
    print("$ python", *command, flush=True)
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as empty:
        status = subprocess.run([sys.executable, *command], cwd=empty, env=env, check=False).returncode
    if status not in (0, 1):
        raise SystemExit(f"ended with exit status {status}: no numbers to keep")


def _report(path: Path) -> dict[str, Any]:
    """Read the values of a report by place; none where there is no report."""
    return dict(_leaves(json.loads(path.read_bytes()))) if path.exists() else {}


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a document by its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in EXCLUDED:
                yield from _leaves(item, f"{place}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}[{number}]")
    else:
        yield place, value


def _arrays(root: Path) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Yield the arrays of a baseline by name: dtype and bytes."""
    for path in sorted((root / "baseline").rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                array = file.get_tensor(name)
                yield name, (str(array.dtype), array.tobytes())


if __name__ == "__main__":
    sys.exit(main())

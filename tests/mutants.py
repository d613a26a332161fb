"""Mutation testing: which small changes of the code does no test notice?

`make mutants` changes one operator, number or branch of `judging.py` at a time, in a copy of the project, and runs the
tests that belong to it. `make mutants MUTANTS="run/cache_key.py storage"` takes other parts; see `SCOPES`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PACKAGE = "pytest_quantcheck"
COPIED = (PACKAGE, "tests", "thresholds", "pyproject.toml", "conftest.py")

SCOPES = {
    "judging.py": ("tests/test_judging.py",),
    "comparing": ("tests/comparing",),
    "run/cache_key.py": ("tests/run/test_cache_key.py", "tests/run/test_measurements.py"),
    "storage": ("tests/storage",),
}
"""The tests that belong to each part of the package that can be mutated."""

PYTEST = "-q -x -p no:cacheprovider -p no:hypothesispytest -p no:xdist --benchmark-disable --no-header --tb=no"

COMPARISONS = "Eq_NotEq|NotEq_Eq|GtE_Gt|GtE_LtE|LtE_Lt|LtE_GtE|Gt_GtE|Gt_Lt|Lt_LtE|Lt_Gt|Is_IsNot|IsNot_Is"
ARITHMETIC = "Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul"
OPERATORS = (
    "AddNot|NumberReplacer|ReplaceOrWithAnd|ReplaceAndWithOr|ReplaceTrueWithFalse|ReplaceFalseWithTrue"
    "|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ZeroIterationForLoop|ReplaceUnaryOperator_USub_UAdd"
    f"|ReplaceComparisonOperator_({COMPARISONS})|ReplaceBinaryOperator_({ARITHMETIC})"
)
"""Changes that a programmer could have made by mistake; the tool's others cost ten times the time and find the same."""

CONFIG = """
[cosmic-ray]
module-path = [{module!r}]
timeout = 120.0
excluded-modules = []
test-command = {command!r}

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = ['^(?!core/({operators})$)']
"""


def main(scopes: list[str]) -> int:
    """Mutate each scope in a copy of the project; print the mutants that no test noticed."""
    found = [line for scope in scopes or ["judging.py"] for line in survivors(scope)]
    print("\n".join(found))
    return 1 if found else 0


def survivors(scope: str) -> Iterator[str]:
    """Yield what was changed in each mutant of a scope that passed its tests."""
    with TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        for one in COPIED:
            copy = shutil.copytree if (ROOT / one).is_dir() else shutil.copy
            copy(ROOT / one, folder / one)
        tests = shlex.join([sys.executable, "-m", "pytest", *PYTEST.split(), *SCOPES[scope]])
        config = CONFIG.format(module=f"{PACKAGE}/{scope}", command=tests, operators=OPERATORS)
        (folder / "mutants.toml").write_text(config)
        for task in ("init mutants.toml mutants.sqlite", "baseline mutants.toml"):
            _run("cosmic_ray.cli", task, folder)
        _run("cosmic_ray.tools.filters.operators_filter", "mutants.sqlite mutants.toml", folder)
        _run("cosmic_ray.cli", "exec mutants.toml mutants.sqlite", folder)
        yield from _survivors(_run("cosmic_ray.cli", "dump mutants.sqlite", folder))


def _run(module: str, arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", module, *arguments.split()]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def _survivors(dump: str) -> Iterator[str]:
    pairs = [json.loads(line) for line in dump.splitlines()]
    tested = sum(bool(result) and result["test_outcome"] is not None for _, result in pairs)
    print(f"{tested} mutants", file=sys.stderr)
    for job, result in pairs:
        if result and result["test_outcome"] == "survived":
            (mutation,) = job["mutations"]
            yield f"{mutation['module_path']}:{mutation['start_pos'][0]}: {mutation['operator_name']}\n{result['diff']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

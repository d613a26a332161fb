"""The walls between the rooms of docs/architecture.md: who may import whom."""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pytest_quantcheck"
OURS = "pytest_quantcheck"

NUMERIC = {"torch", "numpy", "scipy"}
HUGGING_FACE = {"transformers", "bitsandbytes", "torchao", "compressed_tensors", "gptqmodel", "optimum"}
HEAVY = NUMERIC | HUGGING_FACE | {"accelerate", "gguf", "msgspec", "safetensors", "ray"}
RAY = {"run/ray_cluster.py", "run/ray_engine.py", "run/ray_workers.py"}
PURE = {"profiles", "storage", "reporting", "comparing", "judging"}
LIGHT = {"__init__", "plugin", "options", "metrics", "errors", "controls/__init__", "controls/catalogue"}


def room_of(source: str) -> str:
    """Return the top folder or module of the package that a file belongs to."""
    return Path(source).parts[0].removesuffix(".py")


@dataclass(frozen=True)
class Import:
    """One import of `target` in `source`; a late one runs inside a function or is there for types only."""

    source: str
    line: int
    target: str
    late: bool
    relative: bool = False

    @property
    def room(self) -> str:
        return room_of(self.source)

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    @property
    def our_room(self) -> str:
        """The room that is imported, when it is one of ours; a name of the package itself is its own room."""
        return [*self.target.split("."), "__init__"][1] if self.library == OURS else ""

    def breaks(self, rule: str) -> str:
        return f"{self.source}:{self.line} imports {self.target}: {rule}"


class _Collector(ast.NodeVisitor):
    """Collects the imports of one module, given as its path inside the package."""

    def __init__(self, source: str) -> None:
        self.source, self.folder = source, [OURS, *Path(source).parts[:-1]]
        self.late = False
        self.found: list[Import] = []

    def visit_Import(self, node: ast.Import) -> None:
        self._add(node, [alias.name for alias in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.folder[: len(self.folder) - node.level + 1] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        self._add(node, [f"{base}.{alias.name}" for alias in node.names], relative=bool(node.level))

    def visit_FunctionDef(self, node: ast.AST) -> None:
        before, self.late = self.late, True
        self.generic_visit(node)
        self.late = before

    def visit_AsyncFunctionDef(self, node: ast.AST) -> None:
        self.visit_FunctionDef(node)

    def visit_If(self, node: ast.If) -> None:
        visit = self.visit_FunctionDef if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit
        visit(node)

    def _add(self, node: ast.stmt, targets: list[str], *, relative: bool = False) -> None:
        self.found += [Import(self.source, node.lineno, target, self.late, relative) for target in targets]


def imports_of(package: Path) -> dict[str, list[Import]]:
    """Return the imports of every module of a package, by its path inside the package."""
    return {str(path.relative_to(package)): _imports_in(path, package) for path in sorted(package.rglob("*.py"))}


def _imports_in(path: Path, package: Path) -> list[Import]:
    collector = _Collector(str(path.relative_to(package)))
    collector.visit(ast.parse(path.read_text(encoding="utf-8")))
    return collector.found


def analyses_are_pure_numerics(imports: dict[str, list[Import]]) -> Iterator[str]:
    """Of our rooms, analyses knows errors and records."""
    rule = "analyses takes tensors and returns numbers; of ours it may know `errors` and `records` only"
    for found in _all(imports):
        if found.room == "analyses" and found.our_room not in {"", "analyses", "errors", "records"}:
            yield found.breaks(rule)


def analyses_know_three_libraries(imports: dict[str, list[Import]]) -> Iterator[str]:
    """Beside the standard library, analyses knows torch, numpy and scipy."""
    rule = "analyses computes with torch, numpy and scipy alone"
    for found in _all(imports):
        if found.room == "analyses" and found.library not in sys.stdlib_module_names | {OURS, *NUMERIC}:
            yield found.breaks(rule)


def only_models_knows_hugging_face(imports: dict[str, list[Import]]) -> Iterator[str]:
    """Nothing but models/ imports transformers or bitsandbytes, not even late."""
    rule = "only models/ knows Hugging Face; ask it for what you need"
    for found in _all(imports):
        if found.room != "models" and found.library in HUGGING_FACE:
            yield found.breaks(rule)


def only_its_engine_knows_ray(imports: dict[str, list[Import]]) -> Iterator[str]:
    """Ray is an extra; what a worker does is known without it."""
    rule = f"only {' and '.join(sorted(RAY))} know Ray, and only `run/engines.py` imports them, late"
    for found in _all(imports):
        theirs = f"{found.target.partition('.')[2].replace('.', '/')}"
        of_the_engine = any(theirs.startswith(one.removesuffix(".py")) for one in RAY)
        if found.source in RAY or not (found.library == "ray" or of_the_engine):
            continue
        if not (of_the_engine and found.late and found.source == "run/engines.py"):
            yield found.breaks(rule)


def records_are_judged_without_pytest(imports: dict[str, list[Import]]) -> Iterator[str]:
    """The rooms behind a measurement know neither pytest nor a model."""
    rule = f"{', '.join(sorted(PURE))} work without pytest and without a model; hand them a record"
    for found in _all(imports):
        if found.room in PURE and (found.library in {"pytest", "_pytest"} or found.our_room in {"models", "plugin"}):
            yield found.breaks(rule)


def starting_pytest_is_cheap(imports: dict[str, list[Import]]) -> Iterator[str]:
    """What runs when a light module is imported, through our other modules too, is light."""
    rule = f"importing one of {', '.join(sorted(LIGHT))} runs this, and every pytest run would pay; import it late"
    waiting, seen = [source for source in imports if _is_light(source)], set()
    while waiting:
        source = waiting.pop()
        if source in seen or source not in imports:
            continue
        seen.add(source)
        now = [found for found in imports[source] if not found.late]
        yield from (found.breaks(rule) for found in now if found.library in HEAVY)
        waiting += [module for found in now for module in _modules_run_by(found)]


def _is_light(source: str) -> bool:
    return not LIGHT.isdisjoint({room_of(source), source.removesuffix(".py")})


def _modules_run_by(found: Import) -> list[str]:
    """Return the files of ours that an import may run: the target, and the packages above it."""
    parts = found.target.split(".")[1:] if found.library == OURS else []
    paths = [Path(*parts[:n]) for n in range(1, len(parts) + 1)]
    return [name for path in paths for name in (f"{path}.py", f"{path}/__init__.py")]


def _all(imports: dict[str, list[Import]]) -> Iterator[Import]:
    return (found for module in imports.values() for found in module)


def files_form_no_circle(imports: dict[str, list[Import]]) -> Iterator[str]:
    """No file imports itself through others; late imports and those for types count, too."""
    yield from _circles_between(imports, str)


def folders_form_no_circle(imports: dict[str, list[Import]]) -> Iterator[str]:
    """No folder imports itself through others; a file of the top level counts as a folder."""
    yield from _circles_between(imports, _folder)


def imports_are_absolute(imports: dict[str, list[Import]]) -> Iterator[str]:
    """There is one import style."""
    rule = "import from pytest_quantcheck, with the whole path"
    yield from (found.breaks(rule) for found in _all(imports) if found.relative)


def files_have_names_of_their_own(imports: dict[str, list[Import]]) -> Iterator[str]:
    """Two rooms never have a file of the same name."""
    seen: dict[str, str] = {}
    for source in imports:
        name = Path(source).name
        if name in seen and name not in {"__init__.py", "__main__.py"}:
            yield f"{seen[name]} and {source} have one name; a name means one thing"
        seen[name] = source


def _circles_between(imports: dict[str, list[Import]], unit: Callable[[str], str]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for source, found in imports.items():
        targets = {unit(target) for one in found for target in _modules_imported(one, imports)}
        graph.setdefault(unit(source), set()).update(targets - {unit(source)})
    yield from (f"{', '.join(circle)}: a circle; move what both need below both" for circle in _circles(graph))


def _folder(source: str) -> str:
    """Return the folder of a file; a file of the top level stands for itself."""
    parent = str(Path(source).parent)
    return source if parent == "." else parent


def _modules_imported(found: Import, imports: dict[str, list[Import]]) -> Iterator[str]:
    """Yield the file of ours that holds what is imported: the innermost one, not the packages above it."""
    here = [name for name in _modules_run_by(found) if name in imports]
    yield from here[-1:] if here and here[-1] != found.source else ()


def _circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield one path for each group of units that reach one another."""
    reached = {start: _reachable(graph, start) for start in graph}
    seen: set[str] = set()
    for start in sorted(graph):
        circle = sorted(unit for unit in reached[start] if start in reached.get(unit, ()))
        if circle and seen.isdisjoint(circle):
            seen.update(circle)
            yield circle


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        unit = waiting.pop()
        if unit not in found:
            found.add(unit)
            waiting += graph.get(unit, ())
    return found


WALLS = (
    analyses_are_pure_numerics,
    analyses_know_three_libraries,
    only_models_knows_hugging_face,
    only_its_engine_knows_ray,
    records_are_judged_without_pytest,
    starting_pytest_is_cheap,
    files_form_no_circle,
    folders_form_no_circle,
    imports_are_absolute,
    files_have_names_of_their_own,
)

BREACHES = [
    (analyses_are_pure_numerics, "analyses/redundancy.py", "from pytest_quantcheck.models import loading"),
    (analyses_are_pure_numerics, "analyses/redundancy.py", "from pytest_quantcheck.gate import Gate"),
    (analyses_know_three_libraries, "analyses/redundancy.py", "import msgspec"),
    (only_models_knows_hugging_face, "measuring.py", "def load():\n    import transformers.models"),
    (only_its_engine_knows_ray, "run/jobs.py", "def measure():\n    import ray\n"),
    (only_its_engine_knows_ray, "run/engines.py", "from pytest_quantcheck.run.ray_engine import RayEngine\n"),
    (records_are_judged_without_pytest, "reporting/terminal.py", "from pytest import TerminalReporter"),
    (records_are_judged_without_pytest, "judging.py", "from pytest_quantcheck.models.loading import load"),
    (starting_pytest_is_cheap, "options/table.py", "if True:\n    import numpy as np"),
    (starting_pytest_is_cheap, "plugin.py", "from pytest_quantcheck.gate import Gate"),
    (files_form_no_circle, "gate.py", "def late():\n    from pytest_quantcheck.run import late\n"),
    (folders_form_no_circle, "gate.py", "def late():\n    from pytest_quantcheck.run import late\n"),
    (imports_are_absolute, "plugin.py", "def hook():\n    from .metrics import METRICS"),
    (files_have_names_of_their_own, "measuring/gate.py", ""),
]


@pytest.fixture(scope="module")
def imports() -> dict[str, list[Import]]:
    """Every import of the package, read once."""
    return imports_of(PACKAGE)


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.__name__)
def test_wall_stands(imports: dict[str, list[Import]], wall: Callable[[dict[str, list[Import]]], Iterator[str]]):
    """The package keeps the wall; the failure names file, line, import and rule."""
    assert not (breaches := list(wall(imports))), "\n".join(breaches)


@pytest.mark.parametrize(("wall", "source", "text"), BREACHES)
def test_breach_is_seen(wall, source, text, tmp_path):
    """Each wall sees an import that breaks it, late ones and those behind another module included."""
    (tmp_path / "gate.py").write_text("import torch\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "late.py").write_text("from pytest_quantcheck.gate import Gate\n")
    (tmp_path / source).parent.mkdir(exist_ok=True)
    (tmp_path / source).write_text(text)
    assert len(list(wall(imports_of(tmp_path)))) == 1


def test_late_import_costs_nothing_at_the_start(tmp_path):
    """A heavy import inside a function, or for types only, is allowed in a light module."""
    (tmp_path / "plugin.py").write_text(
        "from typing import TYPE_CHECKING\n\n\ndef hook():\n    import torch\n\n\nif TYPE_CHECKING:\n    import numpy\n"
    )
    assert list(starting_pytest_is_cheap(imports_of(tmp_path))) == []

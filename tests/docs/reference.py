"""The reference pages and what type checkers read: `python -m tests.docs.reference` writes them from the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import pytest_quantcheck
from pytest_quantcheck import errors, plugin, records
from pytest_quantcheck.commands.options import COMPARE, DEQUANTIZE, MEASURE, MERGE, spelled
from pytest_quantcheck.controls import certificate as certifying
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.models.architectures import ACTIVATIONS, AFTER_BLOCKS, FFNS
from pytest_quantcheck.models.formats import FORMATS
from pytest_quantcheck.options import OPTIONS, Option
from pytest_quantcheck.reporting import Report

FOUND = Path(__file__).parents[1] / "causal_models.toml"
FOLDER = Path(__file__).parents[2] / "docs" / "reference"
METRIC_NAMES = Path(pytest_quantcheck.__file__).with_name("metric_names.py")
STUB = Path(pytest_quantcheck.__file__).with_suffix(".pyi")
MADE = "Made from the code by `python -m tests.docs.reference`; a test fails where the two part."
_RECORDS: tuple[type[msgspec.Struct], ...] = (
    Report,
    records.Verdict,
    records.Estimate,
    records.Comparison,
    records.Provenance,
    records.ReliabilityBin,
    records.Convergence,
    records.Flip,
    records.TokenDivergence,
    records.PlaceDivergence,
    records.Passage,
    records.ScoredToken,
    records.Answer,
    certifying.Certificate,
    certifying.ControlResult,
    certifying.Spread,
)


def options() -> str:
    """Every option with its ini twin, its default and what it does."""
    rows = [(f"{_code(f'{o.flag}{_value(o)}')}<br>{_code(o.dest)}", _default(o), _again(o, o.summary)) for o in OPTIONS]
    return _page(
        "Options",
        "The command line comes before the ini file (`pytest.ini`, `pyproject.toml`, …), and that before the default. "
        "In the ini file a flag is `true` or `false`, and what may be repeated stands one a line. "
        "An option that cannot be used ends the run with exit status 4 before anything is loaded.",
        *_table(("option, and its name in the ini file", "default", "what it does"), rows),
    )


def commands() -> str:
    """The options of the commands that work without pytest."""
    parts = [
        part
        for name, table in (
            ("measure", MEASURE),
            ("merge SHARD SHARD …", MERGE),
            ("compare REF CAND", COMPARE),
            ("dequantize FILE.gguf", DEQUANTIZE),
        )
        for part in (
            f"## `python -m pytest_quantcheck {name}`",
            *_table(
                ("option", "default", "what it does"),
                [(_code(f"--{o.name}{_value(o)}"), _default(o), _again(o, spelled(o.summary))) for o in table],
            ),
        )
    ]
    return _page(
        "Commands",
        "`python -m pytest_quantcheck COMMAND --help` has the same. Ini files play no part here. `measure` stores what "
        "a model does, or one shard of it; `merge SHARD SHARD …` makes the whole of its shards; `compare REF CAND` "
        "judges two such directories; `dequantize FILE.gguf` writes a GGUF file as a "
        "plain checkpoint; `profiles show SPEC`, `profiles diff SPEC SPEC` and `profiles check [SPEC …]` look at "
        "threshold profiles; `doctor` says what this environment offers to a gate, and what it lacks. "
        "[Exit statuses](exit-statuses.md).",
        *parts,
    )


def python() -> str:
    """Fixtures, assertions, and the other public names."""
    fixtures = {name: found for name, found in vars(plugin).items() if name.startswith("quantcheck")}
    scopes = {name: found._fixture_function_marker.scope for name, found in fixtures.items()}
    asserts = [name for name in pytest_quantcheck.__all__ if name.startswith("assert_")]
    others = [name for name in pytest_quantcheck.__all__ if name not in asserts]
    return _page(
        "Fixtures, assertions, public names",
        "## Fixtures",
        *_table(
            ("fixture", "scope", "what it is"),
            [(_code(name), scopes[name], _first(found)) for name, found in fixtures.items()],
        ),
        "## Assertions",
        "Each takes a comparison, from `quantcheck.compare(…)` or `compare(…)`, and returns the verdict. `limit=` "
        "replaces the profile's limit. It fails with the text of a verdict, and warns with a `QuantcheckWarning` where "
        "a profile lets an inconclusive verdict pass with a word.",
        *_table(
            ("from `pytest_quantcheck`", "what it does"), [(_signed(name), _first(_public(name))) for name in asserts]
        ),
        "## Other names",
        *_table(
            ("from `pytest_quantcheck`", "what it is"), [(_signed(name), _first(_public(name))) for name in others]
        ),
        "## Errors",
        *_table(
            ("from `pytest_quantcheck.errors`", "what went wrong"),
            [(_code(name), _first(found)) for name, found in vars(errors).items() if inspect.isclass(found)],
        ),
    )


def names() -> str:
    """The metrics and the controls."""
    return _page(
        "Metrics and controls",
        "What each metric sees and misses: [explanation/metrics.md](../explanation/metrics.md).",
        "## Metrics",
        *_table(
            ("name", "title", "what it is", "fails", "for each layer", "unit", "range", "limits", "needs"),
            [
                (
                    _code(m.name),
                    m.title,
                    f"{m.meaning}: {m.definition}",
                    f"{m.failing_side} its limit",
                    "yes" if m.layered else "no",
                    m.unit or "-",
                    f"{m.least:g} to {m.most:g}",
                    "{:g} to {:g}".format(*m.limit_range),
                    ", ".join(m.needs),
                )
                for m in METRICS.values()
            ],
        ),
        "## Controls",
        "A null and a rewrite must pass; a defect must be seen by a metric. Each is a test "
        "`quantcheck::test_control[NAME-PROMPTS]` of a run with `--quantcheck-controls`.",
        *_table(("name", "kind", "what it is"), [(_code(c.name), c.kind, c.summary) for c in CONTROLS.values()]),
    )


def report() -> str:
    """What report.json and certificate.json hold."""
    return _page(
        "report.json and certificate.json",
        "`report.json` is one `Report`, `certificate.json` one `Certificate`. The JSON Schemas are "
        "[report.schema.json](../../pytest_quantcheck/reporting/report.schema.json) and "
        "[certificate.schema.json](../../pytest_quantcheck/reporting/certificate.schema.json), and come with the "
        "package. No number in them is NaN or infinite: what could not be measured is `null`, with a reason.",
        *(part for record in _RECORDS for part in _record(record)),
    )


def stub() -> str:
    """The public names of the package as type checkers read them."""
    imports = [
        f"from pytest_quantcheck.{home} import {name} as {name}" for name, home in pytest_quantcheck._HOMES.items()
    ]
    signature = "(comparison: Comparison, *, limit: float | None = None) -> Verdict: ..."
    lines = [
        f"# {MADE}",
        "",
        *sorted([*imports, "from pytest_quantcheck.records import Comparison, Verdict"]),
        "",
        "__version__: str",
        "",
        *(f"def assert_{metric}{signature}" for metric in sorted(METRICS)),
    ]
    return "\n".join(lines) + "\n"


def metric_names() -> str:
    """The names of metrics as type checkers read them."""
    listed = "\n".join(f'        "{name}",' for name in METRICS)
    return f'''"""Names of metrics for type checkers; at run time any text is one, as `METRICS` may grow."""

# {MADE}

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    MetricName = Literal[
{listed}
    ]
else:
    MetricName = str
'''


def architectures() -> str:
    """Where decoders have their neurons, and what a gate makes of each type of model."""
    found = tomllib.loads(FOUND.read_text(encoding="utf-8"))
    numbers = Counter(row["gated"] for row in found["types"].values())
    return _page(
        "Architectures",
        "A model is measured without further options if its decoder has modules at known paths, or if its FFNs are "
        "found by what they compute: two prompts of two tokens are run, and an FFN is a linear module, an elementwise "
        "activation function that is a module of its own, and a linear module that reads the function's output or its "
        "product with a third linear module's. The decoder is the part that holds the blocks, such as `model` in a "
        "Llama and `model.language_model` in a multimodal Gemma 3; its vision tower is not measured. Of a mixture of "
        "experts the neurons are those of all experts.",
        "Refused are encoder-decoders, encoders (a token's answer depends on later tokens), models without FFNs "
        "(Mamba), and those whose activation function is called without a module. For a layout that is not found, name "
        "its activation function with `--quantcheck-neurons=model.layers.{}.mlp.act_fn`, for example; the error lists "
        "the model's modules. Then attributions run the whole model for each evaluation, and take longer.",
        "## Known names",
        "`{}` stands for the number of a block. The projections are what rewrites and defects alter "
        "([controls](metrics.md#controls)): the one before the activation function, the one that its output is "
        "multiplied with if there is one, and the one after. They are found by name in a layout named with "
        "`--quantcheck-neurons` too.",
        *_table(
            ("what", "names"),
            [
                ("output is the neurons", "; ".join(map(_code, ACTIVATIONS))),
                ("projections in a block", "; ".join(_code(str(names)) for names in FFNS)),
                ("after the blocks", "; ".join(map(_code, AFTER_BLOCKS))),
            ],
        ),
        "## Types of models",
        f"Every type that transformers {found['transformers']} lists as a causal language model, as a tiny model of "
        "random weights: made from its default configuration with small sizes, saved, loaded at int8, nf4 and full "
        "precision, and run. *Whole*: every block has neurons that are measured, and projections that controls "
        "alter. *In part*: some blocks have none; name the others with `--quantcheck-layers`. *Not tried*: this "
        "transformers makes no tiny one of it from its default configuration. Written by `python -m "
        "tests.causal_models`; a test makes each again. Of these types "
        + ", ".join(f"{number} are {gated}" for gated, number in numbers.most_common())
        + ".",
        *_table(
            ("`model_type` in config.json", "gated", "where the neurons are, or why not"),
            [(_code(kind), row["gated"], row["how"]) for kind, row in found["types"].items()],
        ),
    )


def formats() -> str:
    """The formats of quantized weights that can be gated."""
    rows = [
        (
            _code(one.method or one.file.suffix),
            ", ".join(map(_code, one.packages)) or "-",
            "yes" if one.needs_gpu else "no",
            ", ".join(layer.name for layer in one.layers) or "-",
        )
        for one in FORMATS
    ]
    return _page(
        "Formats",
        "A released checkpoint is recognised by the `quant_method` in its `config.json`, or by the ending of its file "
        "name. What each format needs here, and how its layers are called in a measurement's `gradient_path`. What is "
        "measured of each, and what is not: [formats](../formats.md).",
        *_table(("recognised by", "needs", "needs a GPU", "layers"), rows),
    )


PAGES = {
    "formats.md": formats,
    "architectures.md": architectures,
    "options.md": options,
    "commands.md": commands,
    "python.md": python,
    "metrics.md": names,
    "report.md": report,
}


def _record(record: type[msgspec.Struct]) -> Iterator[str]:
    yield f"## {record.__name__}"
    yield inspect.cleandoc(record.__doc__ or "")
    annotated = inspect.get_annotations(record)
    rows = [(_code(name), _code(_type(annotated[name]))) for name in record.__struct_fields__]
    yield from _table(("field", "type"), rows)


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"Annotated\[datetime.*", "datetime", text).replace("MetricName", "str")
    return re.sub(r"(\w+\.)+(\w+)", r"\2", text)


def _public(name: str) -> Any:
    return getattr(pytest_quantcheck, name)


def _signed(name: str) -> str:
    found = _public(name)
    if inspect.isclass(found):
        return _code(name)
    parameters = inspect.signature(found).parameters.values()
    shown = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return _code(f"{name}{inspect.Signature(shown)}")


def _first(found: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(found.__doc__ or "").split("\n\n")[0].split())


def _value(option: Option) -> str:
    return "" if option.kind == "flag" else f"={option.metavar or option.field.upper()}"


def _default(option: Option) -> str:
    return "off" if option.kind == "flag" else _code(option.default) if option.default else "none"


def _again(option: Option, summary: str) -> str:
    summary = re.sub(r"--[a-z][a-z-]*", lambda flag: _code(flag[0]), summary)
    return f"{summary}; may be repeated" if option.kind == "list" else summary


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)]


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", MADE, *parts]) + "\n"


if __name__ == "__main__":
    for file_name, make in PAGES.items():
        (FOLDER / file_name).write_text(make(), encoding="utf-8")
    STUB.write_text(stub(), encoding="utf-8")
    METRIC_NAMES.write_text(metric_names(), encoding="utf-8")

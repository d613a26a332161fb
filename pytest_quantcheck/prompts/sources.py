"""Reading of a prompt set from its source."""

import random
from collections.abc import Mapping
from pathlib import Path

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.options.columns import COLUMNS
from pytest_quantcheck.prompts.hub import find_hub_set, read_hub_rows
from pytest_quantcheck.prompts.prompt_files import PromptRow, read_rows
from pytest_quantcheck.prompts.promptset import FEWEST_PROMPTS, PromptSet
from pytest_quantcheck.prompts.template import Template, parse_template, render

BUILTIN = Path(__file__).parent.parent / "models" / "builtin" / "prompts.jsonl"


def read_prompts(
    source: str,
    *,
    template: str = "auto",
    samples: int = 1000,
    seed: int = 0,
    columns: Mapping[str, str] = COLUMNS,
) -> PromptSet:
    """Read, check and sample a prompt set.

    Args:
        source: `builtin`, a `.csv` or `.jsonl` file, or `hf:NAME`, one of the paper's data
            sets, with the paper's template unless `template` has another format.
        template: what `--quantcheck-template` takes.
        samples: most prompts; the first so many rows in an order that only `seed` decides are taken, so that fewer
            samples are a prefix of more.
        seed: seed of that order.
        columns: the column of `prompt` and of `gold` in a file, such as `{"prompt": "question", "gold": "answer"}`.

    Raises:
        PromptError: the source cannot be read, a row is not valid, equal prompts of a file have different golds
            (whether they are sampled or not), or fewer than ten different prompts are left.
    """
    chosen = _choose_template(source, parse_template(template))
    rows = _read_source(source, columns)
    numbers = _shuffled(rows, seed)
    if source.startswith("hf:"):
        numbers = numbers[:samples]  # nobody can correct the rows of others that are not measured
    prompt_set = _make_prompt_set(source, chosen, {number: rows[number] for number in numbers}, available=len(rows))
    prompt_set.choose_distinct(prompt_set.prompts)
    sample = prompt_set.first(samples)
    if len(sample) < FEWEST_PROMPTS:
        raise PromptError(
            f"{source}: expected at least {FEWEST_PROMPTS} prompts (ten calibration bins), got {len(sample)}"
        )
    sample.choose_distinct(sample.prompts)
    return sample


def _choose_template(source: str, template: Template) -> Template:
    if source.startswith("hf:") and template.format is None:
        return Template(template.chat, find_hub_set(source.removeprefix("hf:")).format)
    if source == "builtin" and template == Template():
        return Template(chat=False)
    return template


def _read_source(source: str, columns: Mapping[str, str]) -> Mapping[int, PromptRow]:
    if source.startswith("hf:"):
        return read_hub_rows(source.removeprefix("hf:"))
    return read_rows(BUILTIN) if source == "builtin" else read_rows(Path(source).expanduser(), columns)


def _shuffled(rows: Mapping[int, PromptRow], seed: int) -> list[int]:
    numbers = sorted(rows)
    random.Random(seed).shuffle(numbers)  # noqa: S311 - a reproducible order, not a secret
    return numbers


def _make_prompt_set(source: str, template: Template, rows: Mapping[int, PromptRow], *, available: int) -> PromptSet:
    _check_fields(source, template, rows)
    deferred = template.format if template.fields == {"prompt"} else None
    return PromptSet(
        name=source.removeprefix("hf:") if source.startswith("hf:") else Path(source).stem,
        prompts=tuple(_prompt(row, template, deferred) for row in rows.values()),
        golds=tuple(row["gold"].strip() for row in rows.values()),
        rows=tuple(rows),
        source=source,
        template=str(template),
        format=deferred,
        chat=template.chat,
        available=available,
    )


def _prompt(row: PromptRow, template: Template, deferred: str | None) -> str:
    if template.format is None or template.format == deferred:
        return row["prompt"]
    return render(template.format, row)


def _check_fields(source: str, template: Template, rows: Mapping[int, PromptRow]) -> None:
    for number, row in rows.items():
        missing = sorted(template.fields - row.keys())
        if missing:
            raise PromptError(
                f"{source}, row {number}: the template uses the columns {missing}, found {sorted(row)}; "
                f"write a literal brace as two braces"
            )

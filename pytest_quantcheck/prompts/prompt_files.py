"""Reading and checking of the rows of CSV and JSONL files."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.options.columns import COLUMNS, complete, suggest
from pytest_quantcheck.user_files import PROMPTS_BYTES, each_key_once, read_file

PromptRow = Mapping[str, str]
Columns = Mapping[str, str]
_LONGEST_FIELD = 2**31 - 1  # the largest C long on every platform


def read_rows(path: Path, columns: Columns = COLUMNS) -> dict[int, PromptRow]:
    """Read every row of a file by its number from 1.

    The number counts rows below a CSV's header, or lines of a JSONL file. Every column of a row is text; `prompt` and
    `gold` are there whatever the file's `columns` for them are called.

    Raises:
        PromptError: the file cannot be read, or a row lacks a column or has a blank `prompt` or `gold`; names the row.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise PromptError(f"prompts: expected a .csv or .jsonl file, 'builtin' or hf:NAME, got {str(path)!r}")
    try:
        columns = complete(columns)
    except ValueError as problem:
        raise PromptError(f"columns: {problem}") from None
    rows = readers[path.suffix.lower()](path, _read_text(path, columns), columns)
    if not rows:
        raise PromptError(f"{path} has no rows; expected prompts with the columns {_both(columns)}")
    for number, row in rows.items():
        _check_row(path, number, row, columns)
    return {number: {**row, **{name: row[column] for name, column in columns.items()}} for number, row in rows.items()}


def _both(columns: Columns) -> str:
    return " and ".join(columns.values())


def _read_text(path: Path, columns: Columns) -> str:
    try:
        text = read_file(path, PROMPTS_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise PromptError(
            f"{path} is not UTF-8: byte {problem.start} is {problem.object[problem.start]:#04x}"
        ) from None
    except OSError as problem:
        raise PromptError(f"cannot read prompts from {path}: {problem.strerror}") from None
    if not text.strip():
        raise PromptError(f"{path} is empty; expected prompts with the columns {_both(columns)}")
    return text


def _read_csv(path: Path, text: str, columns: Columns) -> dict[int, PromptRow]:
    with _long_fields():
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            header = list(reader.fieldnames or ())
            _check_columns(str(path), header, columns)
            return {number: _csv_row(path, number, row, header) for number, row in enumerate(reader, start=1)}
        except csv.Error as problem:
            raise PromptError(f"{path}, line {reader.line_num}: malformed CSV: {problem}") from None


@contextmanager
def _long_fields() -> Iterator[None]:
    """Raise the csv module's global limit for a field (128 KiB) temporarily."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_row(path: Path, number: int, row: dict[Any, Any], header: list[str]) -> PromptRow:
    if None in row or None in row.values():
        raise PromptError(f"{path}, row {number}: expected {len(header)} fields, got {_count_fields(row)}")
    return row


def _count_fields(row: dict[Any, Any]) -> int:
    extra = row.get(None, [])
    return sum(value is not None for name, value in row.items() if name is not None) + len(extra)


def _read_jsonl(path: Path, text: str, columns: Columns) -> dict[int, PromptRow]:
    lines = text.split("\n")  # splitlines() would also cut at U+2028 within a string
    numbered = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    return {number: _json_row(path, number, line, columns) for number, line in numbered.items()}


def _json_row(path: Path, number: int, line: str, columns: Columns) -> PromptRow:
    place = f"{path}, line {number}"
    try:
        row = json.loads(line, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as problem:
        raise PromptError(f"{place}: malformed JSON: {problem}") from None
    if not isinstance(row, dict):
        raise PromptError(f"{place}: expected a JSON object, got {line.strip()[:80]!r}")
    _check_columns(place, list(row), columns)
    prompt, gold = (row[columns[name]] for name in COLUMNS)
    if not isinstance(prompt, str):
        raise PromptError(f"{place}: expected text as {columns['prompt']}, got {prompt!r:.100}")
    if not isinstance(gold, str | int | None):
        expected = f"text, true, false or a whole number as {columns['gold']}"
        raise PromptError(f"{place}: expected {expected}, got {gold!r:.100}")
    return {name: "" if value is None else str(value) for name, value in row.items()}


def _check_columns(place: str, header: list[str], columns: Columns) -> None:
    missing = [column for column in columns.values() if column not in header]
    if missing:
        raise PromptError(
            f"{place}: expected the columns {_both(columns)}, missing {missing}, found {header}; name those that have "
            f"prompt and gold: {suggest(columns, header)}"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise PromptError(f"{place}: expected each column once, got {twice} more than once")


def _check_row(path: Path, number: int, row: PromptRow, columns: Columns) -> None:
    for name in columns.values():
        if not row[name].strip():
            raise PromptError(f"{path}, row {number}: the {name} is empty; fill it in or remove the row")
    nul = [name for name, value in row.items() if "\0" in value]
    if nul:
        raise PromptError(f"{path}, row {number}: a NUL character in {', '.join(map(repr, nul))}, which is not text")
    try:
        "".join(row.values()).encode()
    except UnicodeEncodeError as problem:
        raise PromptError(
            f"{path}, row {number}: half of a surrogate pair, which is not text: {problem.reason}"
        ) from None

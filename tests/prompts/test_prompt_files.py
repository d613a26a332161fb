"""Rows of CSV and JSONL files, and a clear sentence for every file that cannot be used."""

import csv
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.options.columns import COLUMNS, parse_columns
from pytest_quantcheck.prompts.prompt_files import read_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)
# The csv module itself turns a lone carriage return outside of quotes into a row's end, and a NUL is no text.
CSV_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)


@pytest.fixture
def read(tmp_path):
    """The rows of a file with the given name and content."""

    def read_content(name, content, columns=COLUMNS):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(path, columns)

    return read_content


@given(rows=st.lists(st.tuples(CSV_TEXT, CSV_TEXT, CSV_TEXT), min_size=1))
def test_csv_gives_back_what_was_written(tmp_path_factory, rows):
    """Quotes, commas, line ends and any script survive the way through a CSV file."""
    path = tmp_path_factory.mktemp("csv") / "prompts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([("prompt", "gold", "topic"), *rows])
    obtained = read_rows(path)
    assert list(obtained) == list(range(1, len(rows) + 1))
    assert [(row["prompt"], row["gold"], row["topic"]) for row in obtained.values()] == rows


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1), ascii_only=st.booleans())
def test_jsonl_gives_back_what_was_written(tmp_path_factory, rows, ascii_only):
    """Any text, the Unicode line separators included, survives the way through a JSONL file."""
    path = tmp_path_factory.mktemp("jsonl") / "prompts.jsonl"
    lines = [json.dumps({"prompt": prompt, "gold": gold}, ensure_ascii=ascii_only) for prompt, gold in rows]
    path.write_bytes("\n".join(lines).encode())
    assert [(row["prompt"], row["gold"]) for row in read_rows(path).values()] == rows


def test_byte_order_mark_is_no_part_of_the_first_column(read):
    """A file saved by a spreadsheet begins with a byte order mark and reads like any other."""
    assert read("a.csv", b"\xef\xbb\xbfprompt,gold\r\nis ice cold,True\r\n") == {
        1: {"prompt": "is ice cold", "gold": "True"}
    }


def test_long_field_is_read_and_the_global_limit_restored(read):
    """A prompt longer than the csv module's 128 KiB is read, and other users of the module see no change."""
    before = csv.field_size_limit()
    long = "word " * 50_000
    assert read("a.csv", f'prompt,gold\n"{long}",True\n')[1]["prompt"] == long
    assert csv.field_size_limit() == before


def test_rows_are_counted_below_the_header_and_lines_with_blank_ones(read):
    """A CSV row's number does not count the header; a JSONL row's number is its line."""
    assert list(read("a.CSV", "prompt,gold\n'a\nb',1\n".replace("'", '"') + "c,2\n")) == [1, 2]
    assert list(read("a.jsonl", '{"prompt": "a", "gold": "1"}\n\n{"prompt": "b", "gold": "2"}\n')) == [1, 3]


@pytest.mark.parametrize(("gold", "text"), [("true", "True"), ("false", "False"), ("3", "3"), ('"A"', "A")])
def test_json_golds_become_text(read, gold, text):
    """A gold answer may be JSON's true, false or a whole number."""
    assert read("a.jsonl", f'{{"prompt": "p", "gold": {gold}}}')[1]["gold"] == text


BAD = {
    "empty": ("a.csv", "", "is empty"),
    "only-blanks": ("a.jsonl", "\n \n", "is empty"),
    "only-header": ("a.csv", "prompt,gold\n", "has no rows"),
    "not-utf8": ("a.csv", b"prompt,gold\ncaf\xe9,True\n", "not UTF-8: byte 15 is 0xe9"),
    "utf16": ("a.csv", "prompt,gold\n".encode("utf-16-le") + b"\xff", "not UTF-8|missing"),
    "no-gold-column": ("a.csv", "prompt,answer\na,b\n", r"missing \['gold'\], found \['prompt', 'answer'\]"),
    "no-gold-key": ("a.jsonl", '{"prompt": "a"}', r"line 1: .*missing \['gold'\], found \['prompt'\]"),
    "column-twice": ("a.csv", "prompt,gold,gold\na,b,c\n", r"each column once, got \['gold'\]"),
    "empty-prompt": ("a.csv", "prompt,gold\na,b\n  ,b\n", "row 2: the prompt is empty"),
    "empty-gold": ("a.csv", "prompt,gold\na,\n", "row 1: the gold is empty"),
    "null-gold": ("a.jsonl", '{"prompt": "a", "gold": null}', "row 1: the gold is empty"),
    "too-few-fields": ("a.csv", "prompt,gold\na\n", "row 1: expected 2 fields, got 1"),
    "too-many-fields": ("a.csv", "prompt,gold\na,b\na,b,c,d\n", "row 2: expected 2 fields, got 4"),
    "open-quote": ("a.csv", 'prompt,gold\n"a,b\nc,d\n', "malformed CSV: unexpected end of data"),
    "malformed-json": ("a.jsonl", '{"prompt": "a", "gold": "b"}\n{"prompt": \n', "line 2: malformed JSON"),
    "json-list": ("a.jsonl", '["a", "b"]', "line 1: expected a JSON object"),
    "json-prompt": ("a.jsonl", '{"prompt": 3, "gold": "b"}', "line 1: expected text as prompt, got 3"),
    "json-gold": ("a.jsonl", '{"prompt": "a", "gold": ["b"]}', r"whole number as gold, got \['b'\]"),
    "half-surrogate": ("a.jsonl", r'{"prompt": "\ud800", "gold": "b"}', "row 1: half of a surrogate pair"),
    "unknown-extension": ("a.tsv", "prompt\tgold\n", "expected a .csv or .jsonl file, 'builtin' or hf:NAME"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_unusable_file_is_refused_with_the_place(read, name, content, message):
    """Each fault of a file gets a sentence that says what and where."""
    with pytest.raises(PromptError, match=message) as caught:
        read(name, content)
    assert name in str(caught.value)


NAMED = {"prompt": "question", "gold": "answer"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "topic,question,answer\nice,is ice cold,True\n"),
        ("a.jsonl", '{"question": "is ice cold", "topic": "ice", "answer": true}'),
    ],
)
def test_columns_have_the_names_that_are_given(read, name, content):
    """Prompt and gold come from the columns that are named; a template can use all others, and these by their names."""
    (row,) = read(name, content, NAMED).values()
    assert (row["prompt"], row["gold"], row["topic"], row["question"]) == ("is ice cold", "True", "ice", "is ice cold")


def test_column_that_is_named_comes_before_one_called_so(read):
    """A file's own column `prompt` gives way to the column that is named."""
    assert read("a.csv", "prompt,question,gold\nsay,is ice cold,True\n", {"prompt": "question"})[1]["prompt"] == (
        "is ice cold"
    )


SUGGESTED = {
    "both": ("question,answer", {}, "prompt=question,gold=answer"),
    "one": ("prompt,Label", {}, "gold=Label"),
    "capitals": ("Prompt,Gold", {}, "prompt=Prompt,gold=Gold"),
    "beside-others": ("id,question_text,topic,correct_answer", {}, "prompt=question_text,gold=correct_answer"),
    "named-otherwise": ("question,answer", {"prompt": "query"}, "prompt=question,gold=answer"),
    "plain": ("prompt,gold", {"prompt": "question", "gold": "answer"}, "prompt=prompt,gold=gold"),
    "blank": ("the question,answer", {}, "'--quantcheck-columns=prompt=the question,gold=answer'"),
    "unlike": ("a,b", {}, "prompt=COLUMN,gold=COLUMN"),
}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize(("header", "columns", "option"), SUGGESTED.values(), ids=SUGGESTED)
def test_missing_column_suggests_the_option(read, name, header, columns, option):
    """A file without the columns is answered with those it has, and the option for the likeliest of them."""
    found = header.split(",")
    content = f"{header}\n{'x,' * len(found)}"[:-1] if name == "a.csv" else json.dumps(dict.fromkeys(found, "x"))
    with pytest.raises(PromptError) as caught:
        read(name, content, columns)
    assert str(caught.value).endswith(option)
    assert f"found {found}" in str(caught.value)


def test_suggested_option_works(read):
    """What the sentence says can be typed, and reads the file."""
    content = "id,question,answer\n1,is ice cold,True\n"
    with pytest.raises(PromptError) as caught:
        read("a.csv", content)
    (word,) = shlex.split(str(caught.value).rpartition(": ")[2])
    columns = parse_columns(word.removeprefix("--quantcheck-columns="))
    assert read("a.csv", content, columns)[1]["gold"] == "True"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": "prompt"}, "columns: expected prompt or gold before a column's name, got 'question'"),
        ({"prompt": "a", "gold": "a"}, "columns: expected two columns, got 'a' for both"),
    ],
)
def test_columns_that_cannot_be_meant(read, columns, message):
    """Names the wrong way round and one column for both are refused."""
    with pytest.raises(PromptError, match=message):
        read("a.csv", "prompt,gold\na,b\n", columns)


def test_faults_are_told_by_the_files_own_names(read):
    """An empty cell, a number as prompt and a column twice are named as the file has them."""
    for name, content, message in (
        ("a.csv", "question,answer\na,\n", "row 1: the answer is empty"),
        ("a.jsonl", '{"question": 3, "answer": "b"}', "line 1: expected text as question, got 3"),
        ("a.csv", "question,answer,answer\na,b,c\n", r"each column once, got \['answer'\]"),
    ):
        with pytest.raises(PromptError, match=message):
            read(name, content, NAMED)


def test_missing_file_and_directory_are_refused(tmp_path):
    """A path that cannot be read is named with the system's reason."""
    with pytest.raises(PromptError, match=r"none\.csv: No such file"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(PromptError, match=r"folder\.csv: expected a regular file, found a directory"):
        read_rows(tmp_path / "folder.csv")

"""From a source's name to a sampled prompt set."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.prompts import read_prompts


def write(folder, n=30, **columns):
    """Write n numbered questions, with further columns or another gold in each row."""
    path = folder / "boolq.jsonl"
    rows = ({"prompt": f"question {i}", "gold": f" {i % 2 == 0} ", **columns} for i in range(1, n + 1))
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def source(tmp_path):
    """A file with thirty numbered questions."""
    return write(tmp_path)


def test_rows_prompts_and_golds_belong_together(source):
    """Whatever the order, prompt and gold are those of the row that is named beside them."""
    prompts = read_prompts(source)
    assert sorted(prompts.rows) == list(range(1, 31))
    assert prompts.prompts == tuple(f"question {row}" for row in prompts.rows)
    assert prompts.golds == tuple(str(row % 2 == 0) for row in prompts.rows)
    assert (prompts.name, prompts.source, len(prompts)) == ("boolq", source, 30)


@given(samples=st.integers(10, 40), seed=st.integers(0, 2**63))
def test_fewer_samples_are_a_prefix_of_more(tmp_path_factory, samples, seed):
    """One seed gives one order, of which `samples` takes the beginning."""
    path = write(tmp_path_factory.mktemp("prompts"))
    everything = read_prompts(path, seed=seed)
    some = read_prompts(path, seed=seed, samples=samples)
    assert some.rows == everything.rows[:samples]


def test_order_is_shuffled_by_seed_alone(source):
    """All rows are shuffled too, the same for one seed and different for another."""
    assert read_prompts(source, seed=1).rows == read_prompts(source, seed=1).rows
    assert read_prompts(source, seed=1).rows != read_prompts(source, seed=2).rows
    assert read_prompts(source, seed=0).rows != tuple(range(1, 31))


def test_order_of_a_seed_does_not_change_between_releases(source):
    """Stored baselines rest on it: seed 0 gives this order, with any Python and on any machine."""
    assert read_prompts(source, samples=10).rows == (4, 11, 19, 18, 6, 1, 8, 27, 30, 15)


def test_format_over_the_prompt_is_applied_by_texts(source):
    """A format with only the prompt in it leaves the raw prompts and gives the texts."""
    prompts = read_prompts(source, template="chat:Q: {prompt}?")
    assert prompts.prompts[0] == f"question {prompts.rows[0]}"
    assert prompts.texts[0] == f"Q: question {prompts.rows[0]}?"
    assert (prompts.chat, prompts.template) == (True, "chat:Q: {prompt}?")


def test_format_over_other_columns_is_applied_while_reading(tmp_path):
    """A format may use every column of the file."""
    prompts = read_prompts(write(tmp_path, passage="Ice is cold."), template="{passage} {prompt}")
    assert prompts.texts[0] == prompts.prompts[0] == f"Ice is cold. question {prompts.rows[0]}"
    assert prompts.format is None
    assert prompts.template == "raw:{passage} {prompt}"


def test_column_that_a_row_lacks_is_refused(source):
    """A template that asks for a column which is not there is told which are."""
    with pytest.raises(PromptError, match=r"columns \['passage'\], found \['gold', 'prompt'\]"):
        read_prompts(source, template="{passage} {prompt}")


@pytest.mark.parametrize(("template", "chat"), [("auto", None), ("chat", True), ("raw", False), ("{prompt}", False)])
def test_chat_follows_the_template(source, template, chat):
    """`auto` leaves the chat template to the tokenizer, the others decide."""
    assert read_prompts(source, template=template).chat is chat


def test_hash_changes_with_all_that_the_model_reads(source, tmp_path):
    """Other golds, order, number or template give another hash, another place of the file does not."""
    changed = [
        read_prompts(source, **arguments).hash
        for arguments in ({}, {"seed": 1}, {"samples": 29}, {"template": "raw"}, {"template": "raw:{prompt} "})
    ]
    (tmp_path / "elsewhere").mkdir()
    changed.append(read_prompts(write(tmp_path / "elsewhere", gold="A")).hash)
    assert len(set(changed)) == len(changed)
    assert read_prompts(write(tmp_path / "elsewhere")).hash == changed[0]


@pytest.mark.parametrize("template", ["auto", "raw:{topic} {prompt}"])
def test_hash_does_not_change_with_names_of_columns(tmp_path, template):
    """A file with other columns is the same prompt set, in CSV and JSONL."""
    rows = [(f"question {n}", str(n % 2 == 0), "numbers") for n in range(12)]
    for names in (("prompt", "gold", "topic"), ("question", "answer", "topic")):
        lines = "\n".join(",".join(line) for line in (names, *rows))
        (tmp_path / f"{names[0]}.csv").write_text(lines)
        objects = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
        (tmp_path / f"{names[0]}.jsonl").write_text(objects)
    named = {"prompt": "question", "gold": "answer"}
    found = {read_prompts(str(tmp_path / f"prompt.{end}"), template=template).hash for end in ("csv", "jsonl")}
    for end in ("csv", "jsonl"):
        found.add(read_prompts(str(tmp_path / f"question.{end}"), template=template, columns=named).hash)
    assert len(found) == 1


def test_columns_are_of_files_alone():
    """The built-in prompts have their own, whatever the run's files have."""
    assert read_prompts("builtin", columns={"prompt": "q", "gold": "a"}).hash == read_prompts("builtin").hash


def test_too_few_prompts_are_refused(tmp_path):
    """Nine prompts cannot fill ten calibration bins, whether the file or the sample is short."""
    with pytest.raises(PromptError, match=r"at least 10 prompts \(ten calibration bins\), got 9"):
        read_prompts(write(tmp_path, n=9))
    with pytest.raises(PromptError, match=r"at least 10 prompts .* got 9"):
        read_prompts(write(tmp_path, n=10), samples=9)


def test_ten_prompts_with_one_gold_are_enough(tmp_path):
    """All golds may be equal: that is the user's business."""
    assert set(read_prompts(write(tmp_path, n=10, gold="A")).golds) == {"A"}


def test_template_is_checked_before_the_source(tmp_path):
    """A bad template is refused without reading anything."""
    with pytest.raises(PromptError, match="template"):
        read_prompts(str(tmp_path / "none.csv"), template="chta")


def test_builtin_prompts_are_raw_and_enough():
    """The built-in set has at least 400 prompts and is not wrapped in a chat template."""
    prompts = read_prompts("builtin")
    assert (prompts.name, prompts.chat) == ("builtin", False)
    assert len(prompts) >= 400
    assert set(prompts.golds) == {"True", "False"}


def repeated(folder, different, gold="yes"):
    """Write thirty rows of so many different prompts."""
    path = folder / "repeated.jsonl"
    rows = ({"prompt": f"question {i % different}", "gold": gold.format(i)} for i in range(30))
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_sample_knows_how_many_there_are(source):
    """So that a verdict does not ask for more than the source has."""
    assert [read_prompts(source, samples=n).available for n in (10, 30, 1000)] == [30, 30, 30]


def test_each_prompt_is_one_unit_of_evidence(tmp_path):
    """Of thirty prompts of which twenty repeat others, ten are measured: the first of each, in their order."""
    prompts = read_prompts(repeated(tmp_path, 10))
    chosen = prompts.choose_distinct(prompts.prompts)
    assert len(chosen) == len({prompts.prompts[position] for position in chosen}) == 10
    assert chosen == sorted(map(prompts.prompts.index, set(prompts.prompts)))


@pytest.mark.parametrize("different", [1, 9])
def test_equal_prompts_are_too_few(tmp_path, different):
    """Thirty prompts of which nine are different are nine."""
    with pytest.raises(PromptError, match=rf"at least 10 prompts .* got 30 that are {different} distinct inputs?;"):
        read_prompts(repeated(tmp_path, different))


def test_two_golds_for_one_prompt_are_refused(tmp_path):
    """Both rows are named, with the golds that contradict each other."""
    with pytest.raises(
        PromptError, match=r"repeated.jsonl, rows \d+ and \d+ are one input with two golds, 'is \d+' and"
    ):
        read_prompts(repeated(tmp_path, 20, gold="is {}"))


def test_two_golds_are_refused_in_rows_that_are_not_sampled(tmp_path):
    """A file is right as a whole, or another sample would meet what this one missed."""
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": f"question {i}", "gold": "yes"} for i in range(200)]
    numbers = {read_prompts(_written(path, rows), samples=10).rows[k] for k in range(10)}
    first, second = [number for number in range(1, 201) if number not in numbers][:2]
    rows[second - 1] = {**rows[first - 1], "gold": "no"}
    with pytest.raises(PromptError, match=r"are one input with two golds, '(yes|no)' and '(yes|no)'"):
        read_prompts(_written(path, rows), samples=10)


def _written(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)

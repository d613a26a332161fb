"""The paper's data sets: records become rows and texts, without the hub."""

import importlib.util

import pytest

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.prompts.hub import HUB_SETS, read_hub_rows, to_rows
from pytest_quantcheck.prompts.template import render

RECORDS = {
    "boolq": {"question": "is ice cold", "answer": False, "passage": "Ice is frozen water."},
    "piqa": {"goal": "Boil water", "sol1": "Use a pot", "sol2": "Use a sieve", "label": 0},
    "hellaswag": {"ctx": "A man sits", "endings": ["he flies", "he eats", "it rains", "no"], "label": "1"},
    "imdb": {"text": "Great fun.", "label": 1},
    "toxicity": {"comment_text": "You fool", "toxic": 1, "insult": 1},
}
GOLDS = {"boolq": "False", "piqa": "A", "hellaswag": "1", "imdb": "Positive", "toxicity": "True"}
TEXTS = {
    "boolq": "Respond with True or False only.\nis ice cold\nAnswer:",
    "piqa": "Respond with only the correct label (A or B) that best describes the appropriate steps for completing the "
    "task. Do not include any additional text or explanation, only respond with one letter.\n\n"
    "Task: Boil water\n\nOptions:\nA: Use a pot\nB: Use a sieve\n\nAnswer:\n",
    "hellaswag": "A man sits\n\nChoose the most appropriate continuation:\n0. he flies\n1. he eats\n2. it rains\n3. no"
    "\n\nAnswer with only the number.\nAnswer:\n",
    "imdb": "Classify the sentiment of the review as Positive or Negative. Respond with only one word.\n"
    "Review: Great fun.\nAnswer:",
    "toxicity": "Given a sentence, respond with only 'True' if the sentence is toxic or else 'False'.\n"
    "Sentence: 'You fool'\nAnswer:",
}


@pytest.mark.parametrize("name", HUB_SETS)
def test_record_becomes_the_papers_text_and_gold(name):
    """Each data set's record gives its gold answer and, by the data set's template, the whole text."""
    row = to_rows(name, [RECORDS[name]])[1]
    assert row["gold"] == GOLDS[name]
    assert render(HUB_SETS[name].format, row) == TEXTS[name]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("boolq", {"text": "a"}),
        ("piqa", {**RECORDS["piqa"], "label": 2}),
        ("hellaswag", {**RECORDS["hellaswag"], "label": ""}),
    ],
)
def test_record_of_another_shape_is_refused_by_number(name, record):
    """A record without its fields, or with a label that stands for no answer, is an error with its number."""
    with pytest.raises(PromptError, match=f"hf:{name}, record 2 is not as expected"):
        to_rows(name, [RECORDS[name], record])


@pytest.mark.parametrize(
    ("name", "key", "label"),
    [
        ("boolq", "answer", None),
        ("piqa", "label", -1),
        ("hellaswag", "label", "-1"),
        ("imdb", "label", -1),
        ("toxicity", "toxic", -1),
    ],
)
def test_hidden_label_is_refused(name, key, label):
    """A label of -1 or none marks a record without an answer; it must not count from the end, nor as true."""
    with pytest.raises(PromptError, match="record 1 is not as expected"):
        to_rows(name, [{**RECORDS[name], key: label}])


def test_unknown_name_lists_the_known():
    """A data set that the paper did not use is answered with those it did."""
    with pytest.raises(PromptError, match="one of boolq, piqa, hellaswag, imdb, toxicity, got hf:mmlu"):
        read_hub_rows("mmlu")


def test_unreachable_data_set_says_what_to_do(monkeypatch):
    """Without the library, or without the hub, the error says what to install or to do instead."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    installed = importlib.util.find_spec("datasets") is not None
    message = "columns prompt and gold and name that file" if installed else "pip install datasets"
    with pytest.raises(PromptError, match=f"hf:toxicity.*{message}"):
        read_hub_rows("toxicity")

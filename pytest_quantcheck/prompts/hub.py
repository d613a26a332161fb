"""Data sets of the paper from the Hugging Face hub, with templates.

The templates are the paper's (Singh and Sajjad, arXiv 2508.16785), except that of IMDB: the paper's wording is not
legible, so the template is ours.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_quantcheck.errors import PromptError
from pytest_quantcheck.prompts.prompt_files import PromptRow


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub: its place, its template, and how a record becomes a row."""

    path: str
    split: str
    format: str
    to_row: Callable[[Mapping[str, Any]], PromptRow]
    hint: str = "Check the network, or save it as CSV with the columns prompt and gold and name that file."


_BOOLEANS = ("False", "True")


def _pick(answers: Sequence[str], label: str | int) -> str:
    if int(label) < 0:
        raise ValueError(f"label {label} marks a record without an answer")
    return answers[int(label)]


def _boolq(record: Mapping[str, Any]) -> PromptRow:
    return {"prompt": record["question"], "gold": _pick(_BOOLEANS, record["answer"])}


def _piqa(record: Mapping[str, Any]) -> PromptRow:
    texts = {name: record[name] for name in ("goal", "sol1", "sol2")}
    return {"prompt": record["goal"], "gold": _pick("AB", record["label"]), **texts}


def _hellaswag(record: Mapping[str, Any]) -> PromptRow:
    endings = {f"ending{i}": text for i, text in enumerate(record["endings"])}
    return {"prompt": record["ctx"], "gold": _pick("0123", record["label"]), "ctx": record["ctx"], **endings}


def _imdb(record: Mapping[str, Any]) -> PromptRow:
    return {"prompt": record["text"], "gold": _pick(("Negative", "Positive"), record["label"])}


def _toxicity(record: Mapping[str, Any]) -> PromptRow:
    return {"prompt": record["comment_text"], "gold": _pick(_BOOLEANS, record["toxic"])}


HUB_SETS = {
    "boolq": HubSet("google/boolq", "validation", "Respond with True or False only.\n{prompt}\nAnswer:", _boolq),
    "piqa": HubSet(
        "baber/piqa",
        "validation",
        "Respond with only the correct label (A or B) that best describes the appropriate steps for completing the "
        "task. Do not include any additional text or explanation, only respond with one letter.\n\n"
        "Task: {goal}\n\nOptions:\nA: {sol1}\nB: {sol2}\n\nAnswer:\n",
        _piqa,
    ),
    "hellaswag": HubSet(
        "Rowan/hellaswag",
        "validation",
        "{ctx}\n\nChoose the most appropriate continuation:\n0. {ending0}\n1. {ending1}\n2. {ending2}\n3. {ending3}\n\n"
        "Answer with only the number.\nAnswer:\n",
        _hellaswag,
    ),
    "imdb": HubSet(
        "stanfordnlp/imdb",
        "test",
        "Classify the sentiment of the review as Positive or Negative. Respond with only one word.\n"
        "Review: {prompt}\nAnswer:",
        _imdb,
    ),
    "toxicity": HubSet(
        "google/jigsaw_toxicity_pred",
        "test",
        "Given a sentence, respond with only 'True' if the sentence is toxic or else 'False'.\n"
        "Sentence: '{prompt}'\nAnswer:",
        _toxicity,
        "It must be downloaded by hand from Kaggle (jigsaw-toxic-comment-classification-challenge): save it as CSV "
        "with the columns prompt and gold and name that file.",
    ),
}


def find_hub_set(name: str) -> HubSet:
    """Find the data set of `hf:NAME`.

    Raises:
        PromptError: there is no such data set.
    """
    if name not in HUB_SETS:
        raise PromptError(f"prompts: expected hf: and one of {', '.join(HUB_SETS)}, got hf:{name}")
    return HUB_SETS[name]


def read_hub_rows(name: str) -> dict[int, PromptRow]:
    """Download a data set and return its rows, numbered from 1.

    Raises:
        PromptError: the library `datasets` is missing, or the data set cannot be loaded or has unexpected records.
    """
    hub_set = find_hub_set(name)
    return to_rows(name, _load_records(name, hub_set))


def to_rows(name: str, records: Iterable[Mapping[str, Any]]) -> dict[int, PromptRow]:
    """Make rows of a data set's records, numbered from 1.

    >>> to_rows("boolq", [{"question": "is ice cold", "answer": True}])
    {1: {'prompt': 'is ice cold', 'gold': 'True'}}
    """
    rows = {}
    for number, record in enumerate(records, start=1):
        try:
            rows[number] = find_hub_set(name).to_row(record)
        except (KeyError, IndexError, TypeError, ValueError) as problem:
            raise PromptError(f"hf:{name}, record {number} is not as expected: {problem!r}") from None
    return rows


def _load_records(name: str, hub_set: HubSet) -> Iterable[Mapping[str, Any]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise PromptError(f"hf:{name} needs the library datasets: pip install datasets") from None
    try:
        loaded: Iterable[Mapping[str, Any]] = datasets.load_dataset(hub_set.path, split=hub_set.split)
    except Exception as problem:  # the library raises its own, requests' and huggingface_hub's errors
        reason = f"{type(problem).__name__}: {problem}"
        raise PromptError(f"hf:{name}: {hub_set.path} cannot be loaded ({reason}). {hub_set.hint}") from problem
    return loaded

"""The built-in model was trained from a seed, knows something, and never saw its prompts."""

import json
import re
import subprocess
import sys
from itertools import islice
from operator import add, sub

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_quantcheck.models import builtin
from tests.builtin_model import make
from tests.builtin_model.statements import (
    FAMILIES,
    is_held_out,
    prompt_questions,
    training_questions,
)


@pytest.fixture(scope="module")
def rows():
    """The shipped prompts."""
    return [json.loads(line) for line in builtin.PROMPTS.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    """The shipped tokenizer."""
    return AutoTokenizer.from_pretrained(builtin.DIRECTORY)


@pytest.fixture(scope="module")
def model():
    """The shipped model, computing in float32: on some processors bf16 is slow."""
    return AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def scores(model, tokenizer, rows):
    """Next-token probabilities after the first 200 prompts."""
    return make.probabilities(model, tokenizer, [row["prompt"] for row in rows[:200]])


def test_shipped_prompts_follow_from_the_seed(tmp_path):
    """The seed alone gives the prompt file, byte for byte."""
    make.write_prompts(tmp_path / "prompts.jsonl", prompt_questions(make.SEED))
    assert (tmp_path / "prompts.jsonl").read_bytes() == builtin.PROMPTS.read_bytes()


def test_no_prompt_is_about_a_trained_statement():
    """Training shows only statements that are not held out, prompts are only about those that are."""
    trained = {question.statement.text for question in islice(training_questions(make.SEED), 20_000)}
    asked = [question.statement.text for question in prompt_questions(make.SEED)]
    assert trained.isdisjoint(asked)
    assert not any(map(is_held_out, trained))
    assert all(map(is_held_out, asked))


def test_prompts_are_different_and_balanced(rows):
    """No prompt comes twice, and every family has as many true as false ones."""
    assert len({row["prompt"] for row in rows}) == len(rows) == 600
    for family in FAMILIES:
        golds = [row["gold"] for row in rows if row["family"] == family]
        assert golds.count("True") == golds.count("False") == 25


def test_golds_of_arithmetic_are_right(rows):
    """Sums, differences and comparisons done anew agree with the gold answers."""
    for row in (row for row in rows if row["family"] in {"addition", "subtraction", "comparison"}):
        first, sign, second, bound = re.search(r"(\d+)(?: ([+-]) (\d+))? is greater than (\d+)", row["prompt"]).groups()
        value = {"+": add, "-": sub, None: add}[sign](int(first), int(second or 0))
        assert (value > int(bound)) == (row["gold"] == "True")


def test_golds_of_transitivity_are_right(rows):
    """The premises put the names in an order that agrees with the gold answers."""
    for row in (row for row in rows if row["family"] == "transitivity"):
        *premises, (first, second) = re.findall(r"(\w+) is \w+er than (\w+)\.", row["prompt"])
        above = set(premises)
        for _ in premises:
            above |= {(high, low) for high, middle in above for other, low in above if middle == other}
        assert ((first, second) in above) == (row["gold"] == "True")


def test_model_answers_most_prompts_but_not_all(scores, tokenizer, rows):
    """A model that knew all or nothing would not show what quantization does to it."""
    golds = tokenizer.convert_tokens_to_ids([row["gold"] for row in rows[:200]])
    accuracy = (scores.argmax(-1) == torch.tensor(golds)).float().mean().item()
    assert 0.75 < accuracy < 0.97


def test_model_answers_true_or_false(scores, tokenizer):
    """After a prompt nearly all probability lies on the two answers."""
    answers = scores[:, tokenizer.convert_tokens_to_ids(["True", "False"])].sum(-1)
    assert answers.min() > 0.95


def test_confidence_is_spread(scores):
    """The model is sure of some answers and unsure of others, so that calibration has something to say."""
    confidence = scores.max(-1).values
    assert (confidence > 0.95).float().mean() > 0.1
    assert (confidence < 0.8).float().mean() > 0.1


@pytest.mark.parametrize("answer", ["True", "False"])
def test_answers_are_one_token(tokenizer, answer):
    """Encoding an answer gives one token after the start token, and decoding gives the answer back."""
    start, token = tokenizer(f" {answer}").input_ids
    assert start == tokenizer.bos_token_id
    assert tokenizer.decode([token]).strip() == answer


def test_prompts_hold_no_unknown_word(tokenizer, rows):
    """Every word of every prompt is in the vocabulary, and prompts differ in length."""
    encoded = tokenizer([row["prompt"] for row in rows]).input_ids
    assert not any(tokenizer.unk_token_id in ids for ids in encoded)
    assert min(map(len, encoded)) < 15
    assert max(map(len, encoded)) > 25


def test_shipped_weights_fit_the_quantizers(model):
    """Weights are stored in bf16, and every linear layer's sides are multiples of 64, the 4-bit block."""
    stored = load_file(builtin.DIRECTORY / "model.safetensors").values()
    assert {tensor.dtype for tensor in stored} == {torch.bfloat16}
    linears = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 7 * model.config.num_hidden_layers
    assert all(side % 64 == 0 for linear in linears for side in linear.weight.shape)


@pytest.fixture
def torch_settings():
    """Put back what making a model sets for the whole process."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("torch_settings")
def test_making_is_deterministic(tmp_path):
    """The same seed and steps give the same bytes."""
    for name in ("one", "two"):
        make.make(tmp_path / name, steps=2)
    for file in ("model.safetensors", "tokenizer.json", "prompts.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_making_refuses_to_overwrite_a_model(capsys):
    """A directory that holds a model is a usage error, not a loss."""
    with pytest.raises(SystemExit, match="2"):
        make.main(["--out", str(builtin.DIRECTORY)])
    assert "name another directory" in capsys.readouterr().err


def test_naming_the_model_imports_nothing_heavy():
    """Whoever only wants the path does not pay for torch."""
    code = (
        "import sys, pytest_quantcheck.models.builtin; sys.exit(not {'torch', 'transformers'}.isdisjoint(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

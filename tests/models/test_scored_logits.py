"""Continuations are the most probable tokens, and the logits of scored tokens those of the whole model."""

import tomllib

import pytest
import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import scored_logits as scoring
from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.greedy import continue_greedily, end_tokens
from pytest_quantcheck.models.scored_logits import scored_logits
from tests.causal_models import FOUND, TYPES, make

RECORDED = tomllib.loads(FOUND.read_text(encoding="utf-8"))["types"]
GATED = sorted(kind for kind in TYPES if RECORDED.get(kind, {}).get("gated") in {"whole", "in part"})
NAMED = ("llama", "gpt2", "gemma2", "gemma3_text", "cohere", "granite", "mamba", "mixtral", "bloom", "falcon_h1")
NOT_CONTINUED = {
    "bailing_hybrid",
    "bamba",
    "granitemoehybrid",
    "jamba",
    "kimi_linear",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
    "qwen4_exp",
    "qwen4_exp_text",
}
"""Tiny models of hybrids of which no block has attention: transformers cannot keep what they have read."""

OTHERWISE = {"git", "moshi", "recurrent_gemma", "trocr"}
"""Types that transformers continues by other tokens than the most probable ones, where prompts are padded or always."""
PROMPTS = [list(range(5, 11)), list(range(9, 13))]
SCORED = (2, 3)


def batch_of(encoded):
    """A left-padded batch."""
    return collate(encoded, range(len(encoded)), pad=0, device=torch.device("cpu"))


def check_continuation(kind):
    """Each token is the most probable one after the prompt and the tokens before it, by a pass of its own."""
    model = make(kind).eval()
    model.generation_config.eos_token_id = None
    model.config.get_text_config(decoder=True).eos_token_id = None
    written = continue_greedily(model, batch_of(PROMPTS), 4, pad=0)
    for prompt, tokens in zip(PROMPTS, written, strict=True):
        assert len(tokens) == 4
        for place, token in enumerate(tokens):
            with torch.no_grad():
                logits = model(**batch_of([prompt + tokens[:place]]).inputs()).logits[0, -1]
            assert logits[token] >= logits.max() - 0.01


def check_logits(kind):
    """Those of the scored positions of a plain pass; a few at a time."""
    model, batch = make(kind).eval(), batch_of(PROMPTS)
    with torch.no_grad():
        whole = model(**batch.inputs()).logits
    expected = torch.cat([whole[row, -n:] for row, n in enumerate(SCORED)])
    for logits in (1, 2 * whole.shape[-1], 2**24):
        parts = list(scored_logits(model, batch, SCORED, logits=logits))
        torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-4, atol=1e-5)
        yield [len(part) for part in parts]


@pytest.mark.parametrize("kind", NAMED)
def test_continuation_is_the_most_probable(kind):
    """Of attention of several kinds, recurrent states and experts."""
    check_continuation(kind)


@pytest.mark.parametrize("kind", NAMED)
def test_logits_are_those_of_the_whole_model(kind):
    """The head runs on one token, two tokens, and all."""
    assert list(check_logits(kind)) == [[1] * 5, [2, 2, 1], [5]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", GATED)
def test_every_type_is_continued_and_scored(kind):
    """Whatever its cache and its head."""
    if kind in NOT_CONTINUED:
        with pytest.raises(ModelError, match=r"cannot continue prompts with .* --quantcheck-continuation=0"):
            check_continuation(kind)
    elif kind not in OTHERWISE:
        check_continuation(kind)
    assert [sum(parts) for parts in check_logits(kind)] == [5, 5, 5]


def test_end_token_ends_a_continuation():
    """It is part of it; others go on."""
    model, batch = make("llama").eval(), batch_of(PROMPTS)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    first, second = continue_greedily(model, batch, 4, pad=0)
    model.generation_config.eos_token_id = [first[1], 95]
    assert end_tokens(model) == {first[1], 95}
    ended = continue_greedily(model, batch, 4, pad=0)
    assert ended[0] == first[: first.index(first[1]) + 1]
    assert ended[1] == second[: len(ended[1])]


def test_what_a_checkpoint_recommends_is_not_applied():
    """Sampling, penalties and other lengths: a continuation is what the model finds most probable."""
    model, batch = make("llama").eval(), batch_of(PROMPTS)
    expected = continue_greedily(model, batch, 4, pad=0)
    recommended = model.generation_config
    recommended.update(do_sample=True, temperature=9.0, repetition_penalty=9.0, min_new_tokens=3, max_new_tokens=1)
    assert continue_greedily(model, batch, 4, pad=0) == expected
    assert model.generation_config is recommended


def test_unknown_head_makes_its_own_logits(monkeypatch):
    """Where what follows the head is not known, rows go through the model, some at a time."""
    monkeypatch.setattr(scoring, "head_logits", lambda model, hidden: model.get_output_embeddings()(hidden) * 2)
    assert list(check_logits("llama")) == [[2, 3], [2, 3], [5]]


def test_model_without_a_separate_head(monkeypatch):
    """It makes all logits itself."""
    model, batch = make("llama").eval(), batch_of(PROMPTS)
    expected = torch.cat(list(scored_logits(model, batch, SCORED)))
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    assert torch.equal(torch.cat(list(scored_logits(model, batch, SCORED))), expected)

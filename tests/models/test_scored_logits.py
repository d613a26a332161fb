"""Continuations are the most probable tokens, and the logits of scored tokens those of the whole model."""

import tomllib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.measuring.scored import ScoredCollector
from pytest_quantcheck.models import scored_logits as scoring
from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.greedy import continue_greedily, end_tokens
from pytest_quantcheck.models.prompt_cache import PromptCache, new_cache, read_prompts
from pytest_quantcheck.models.scored_logits import LOGITS, scored_logits
from pytest_quantcheck.prompts import read_prompts as prompts_of
from tests.causal_models import FOUND, TYPES, make

RECORDED = tomllib.loads(FOUND.read_text(encoding="utf-8"))["types"]
GATED = sorted(kind for kind in TYPES if RECORDED.get(kind, {}).get("gated") in {"whole", "in part"})
NAMED = ("llama", "gpt2", "gemma2", "gemma3_text", "cohere", "granite", "mamba", "mixtral", "bloom", "mpt")
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
    expected = {(row, place): whole[row, place - n] for row, n in enumerate(SCORED) for place in range(n)}
    for logits in (1, 2 * whole.shape[-1], 2**24):
        parts = list(scored_logits(model, batch, SCORED, logits=logits))
        check_parts(parts, expected)
        yield [len(part.rows) for part in parts]


def check_parts(parts, expected):
    """Each scored token comes once, with its logits."""
    found = {}
    for part in parts:
        for row, place, logits in zip(part.rows.tolist(), part.places.tolist(), part.logits, strict=True):
            assert (row, place) not in found
            found[row, place] = logits
    assert found.keys() == expected.keys()
    for where, logits in expected.items():
        torch.testing.assert_close(found[where], logits, rtol=1e-4, atol=1e-4)


def check_cache(kind):
    """What is read after kept prompts is what a pass over all gives; written is what is written without."""
    model, batch = make(kind).eval(), batch_of(PROMPTS)
    with torch.no_grad():
        cache = new_cache(model)
        kept = None if cache is None else read_prompts(model, batch, cache)
        if not isinstance(kept, PromptCache):
            return False
        assert kept.write(4, ends=(), pad=0) == [row[:4] for row in plainly_written(model, 4)]
        written = [[7, 8, 9], [3]]
        expected = {}
        for row, (prompt, tokens) in enumerate(zip(PROMPTS, written, strict=True)):
            logits = model(**batch_of([prompt + tokens]).inputs()).logits[0, len(prompt) - 1 :]
            expected |= {(row, place): logits[place] for place in range(len(tokens))}
        check_parts(list(kept.scored(written, pad=0, logits=1)), expected)
    return True


def plainly_written(model, most):
    """The most probable tokens after each prompt, each by a pass of its own."""
    rows = []
    for prompt in PROMPTS:
        tokens = []
        for _ in range(most):
            tokens.append(int(model(**batch_of([prompt + tokens]).inputs()).logits[0, -1].argmax()))
        rows.append(tokens)
    return rows


@pytest.mark.parametrize("kind", NAMED)
def test_continuation_is_the_most_probable(kind):
    """Of attention of several kinds, recurrent states and experts."""
    check_continuation(kind)


@pytest.mark.parametrize("kind", NAMED)
def test_logits_are_those_of_the_whole_model(kind):
    """The head runs on one token, two tokens, and all."""
    assert list(check_logits(kind)) == [[1] * 5, [2, 2, 1], [5]]


@pytest.mark.parametrize("kind", NAMED)
def test_prompts_are_read_once(kind):
    """Where keys and values are all that a model keeps, and it is told places: not of recurrent states or ALiBi."""
    assert check_cache(kind) == (kind not in {"bloom", "mamba", "mpt"})


@pytest.mark.parametrize("kind", ["git", "moshi"])
def test_types_that_would_go_on_otherwise_are_read_again(kind):
    """By transformers' own code they continue what they keep as another text."""
    assert new_cache(make(kind)) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", GATED)
def test_every_type_that_keeps_prompts_is_right(kind):
    """Or its prompts are read again."""
    check_cache(kind)


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
    (expected,) = scored_logits(model, batch, SCORED)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    (found,) = scored_logits(model, batch, SCORED)
    assert torch.equal(found.logits, expected.logits)


class Largest(TorchDispatchMode):
    """Sees the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, _types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


@pytest.mark.parametrize("tokens", [40, 160])
def test_memory_does_not_grow_with_sequence_times_vocabulary(tokens):
    """With 262,144 words, as Gemma has: two rows of 160 tokens have 84 million logits; 16.8 million are made at a time.

    Of tokens that are read after kept prompts, and with their prompts; what is collected of them is no larger.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2**18,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    written = [[7] * tokens, [8] * tokens]
    with Largest() as seen, torch.no_grad():
        kept = read_prompts(model, batch_of(PROMPTS), new_cache(model))
        collector = ScoredCollector(prompts_of("builtin", samples=10), 2, tokens, reference=None)
        collector.add([0, 1], written, kept.scored(written, pad=0))
        longer = batch_of([prompt + own[:-1] for prompt, own in zip(PROMPTS, written, strict=True)])
        for part in scored_logits(model, longer, [tokens, tokens]):
            assert part.logits.numel() <= LOGITS
    assert seen.elements <= LOGITS
    assert len(collector.result().token) == 2 * tokens

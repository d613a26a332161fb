"""Prompts become left-padded batches, each prompt once, and nothing is truncated."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace, WordPiece
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from pytest_quantcheck.models.encoding import batches, collate, encode, token_texts

CPU = torch.device("cpu")


def test_padding_is_on_the_left():
    """The last column holds each prompt's last token; masks and positions leave the padding out."""
    batch = collate([[5, 6, 7], [8], [9, 10]], [0, 1, 2], pad=3, device=CPU)
    assert batch.input_ids.tolist() == [[5, 6, 7], [3, 3, 8], [3, 9, 10]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 1]]
    assert batch.real.tolist() == batch.attention_mask.bool().tolist()
    assert batch.lengths == (3, 1, 2)


def test_batch_remembers_which_prompts_it_holds():
    """Rows follow the index, not the order of the prompt set."""
    batch = collate([[5], [6, 7], [8]], [2, 1], pad=0, device=CPU)
    assert batch.index == (2, 1)
    assert batch.input_ids.tolist() == [[0, 8], [6, 7]]


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=8), st.integers(0, 9), st.data()
)
def test_every_token_is_where_it_belongs(encoded, pad, data):
    """For any prompts, of one token too, any choice of them, and a pad token that occurs in prompts as well."""
    index = data.draw(st.lists(st.sampled_from(range(len(encoded))), min_size=1, unique=True))
    batch = collate(encoded, index, pad=pad, device=CPU)
    width = max(len(encoded[i]) for i in index)
    assert batch.index == tuple(index)
    assert batch.lengths == tuple(len(encoded[i]) for i in index)
    for row, i in enumerate(index):
        empty, n = width - len(encoded[i]), len(encoded[i])
        assert batch.input_ids[row].tolist() == [pad] * empty + encoded[i]
        assert batch.attention_mask[row].tolist() == [0] * empty + [1] * n
        assert batch.position_ids[row].tolist() == [0] * empty + list(range(n))
    dtypes = {part.dtype for part in (batch.input_ids, batch.attention_mask, batch.position_ids)}
    assert dtypes == {torch.int64}


@pytest.mark.parametrize(("lengths", "masked"), [((4, 4), False), ((4, 3), True), ((4,), False)])
def test_mask_is_passed_only_where_something_is_padded(batch_of, lengths, masked):
    """A mask of ones would only cost time."""
    assert ("attention_mask" in batch_of(*lengths).inputs()) is masked


def test_padding_does_not_change_the_answer(model, batch_of):
    """For each architecture a prompt gets the same logits alone and left-padded.

    Tolerance: logits of order 10 and float32 sums in another order.
    """
    padded = batch_of(3, 7)
    alone = collate([padded.input_ids[0, 4:].tolist()], [0], pad=0, device=CPU)
    expected = model(**alone.inputs()).logits[0, -1]
    torch.testing.assert_close(model(**padded.inputs()).logits[0, -1], expected, atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 8))
def test_batches_partition_the_prompts(lengths, size):
    """Every prompt is in exactly one batch, no batch is too large, and lengths never grow."""
    parts = batches([[0] * n for n in lengths], range(len(lengths)), size)
    flat = [i for part in parts for i in part]
    assert sorted(flat) == list(range(len(lengths)))
    assert max(map(len, parts)) <= size
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)


def test_batches_of_some_prompts():
    """Only the prompts that are asked for are batched."""
    assert batches([[1], [1, 2], [1, 2, 3]], [0, 2], 1) == [[2], [0]]


def test_shuffled_batches_mix_lengths():
    """Every prompt is in exactly one batch, the same for the same seed, and lengths no longer fall."""
    encoded = [[0] * n for n in range(1, 21)]
    parts = batches(encoded, range(20), 4, shuffle=0)
    flat = [i for part in parts for i in part]
    assert sorted(flat) == list(range(20))
    assert flat != sorted(flat, reverse=True)
    assert parts == batches(encoded, range(20), 4, shuffle=0) != batches(encoded, range(20), 4, shuffle=1)


@pytest.mark.parametrize(
    ("decoder", "texts"),
    [
        (Metaspace(), {"\u2581True": " True", "th": "th", "\N{REPLACEMENT CHARACTER}": "\N{REPLACEMENT CHARACTER}"}),
        (WordPiece(), {"True": " True", "##th": "th"}),
    ],
)
def test_token_reads_as_it_does_after_another(decoder, texts):
    """With its space, which both decoders drop at the start of a text, or joined to what stands before."""
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(texts)}, unk_token="True"))
    backend.decoder = decoder
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert list(token_texts(tokenizer, range(len(texts))).values()) == list(texts.values())


def test_encoding_adds_the_start_token(tokenizer):
    """A raw prompt gets the tokenizer's special tokens."""
    assert encode(tokenizer, ["w5 w6", "w7"], chat=False) == [[1, 5, 6], [1, 7]]


@pytest.mark.parametrize("template_has_start", [True, False])
def test_chat_template_alone_decides_on_the_start_token(tokenizer, template_has_start):
    """Special tokens are the template's business: none is doubled or added."""
    start = "{{ bos_token }} " if template_has_start else ""
    chatting = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>")
    chatting.chat_template = start + "w10 {{ messages[0]['content'] }} {% if add_generation_prompt %}w11{% endif %}"
    assert encode(chatting, ["w5 w6"], chat=True) == [[*[1] * template_has_start, 10, 5, 6, 11]]

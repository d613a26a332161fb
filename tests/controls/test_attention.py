"""A model can be asked to attend by plain matrix products."""

import pytest
import torch

from pytest_quantcheck.controls.attention import use_eager_attention
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source


@pytest.fixture
def loaded():
    """The built-in model, in memory."""
    with load(Source("builtin", dtype="fp32")) as model:
        yield model


def test_eager_attention_is_the_same_function(loaded):
    """Other kernels, the same logits but for rounding: float32 sums of at most 8 tokens in another order."""
    tokens = torch.arange(8)[None]
    before = loaded.model(tokens).logits
    assert use_eager_attention(loaded) == "eager attention instead of sdpa"
    torch.testing.assert_close(loaded.model(tokens).logits, before, atol=1e-4, rtol=1e-4)


def test_model_that_is_eager_already_has_no_other_kernels(loaded):
    """The control is not applicable, with the reason."""
    use_eager_attention(loaded)
    with pytest.raises(NotApplicable, match="LlamaForCausalLM runs eager attention already"):
        use_eager_attention(loaded)

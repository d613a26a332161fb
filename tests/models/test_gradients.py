"""Gradients through quantized layers are those of the function the layers compute, and nothing is left changed."""

import copy
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.functional import has_avx512bf16

from pytest_quantcheck.models import gradients
from pytest_quantcheck.models.gradients import (
    dequantized,
    float32_bytes,
    float32_gradients,
    float32_gradients_in_pieces,
    recomputed,
)
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source

PACKED = has_avx512bf16()
needs_packing = pytest.mark.skipif(not PACKED, reason="bitsandbytes packs 4-bit weights only with AVX-512 bf16")


@pytest.fixture
def load_at(checkpoint):
    """Loads the tiny checkpoint anew at a bit-width."""
    return lambda bits: load(Source(str(checkpoint), device="cpu"), bits).model


def layers(model, kind):
    """Every bitsandbytes layer of a kind by its name."""
    return {name: module for name, module in model.named_modules() if type(module).__name__ == kind}


def slope_of(model, batch):
    """Gradient of the answers' log-probabilities with respect to the embeddings, (prompts, tokens, width)."""
    inputs = batch.inputs()
    embedded = model.get_input_embeddings()(inputs.pop("input_ids")).detach().float().requires_grad_()
    logits = model(inputs_embeds=embedded, **inputs).logits[:, -1].float()
    return torch.autograd.grad(logits.log_softmax(-1)[:, 5].sum(), embedded)[0]


def state(model):
    """Everything that must come back: each parameter's object, data and type, and each module's own forward."""
    parameters = [(name, id(p), p.dtype, p.clone()) for name, p in model.named_parameters(remove_duplicate=False)]
    return parameters, {name: vars(module).get("forward") for name, module in model.named_modules()}


def same(before, after):
    """Whether two states are the same bit for bit."""
    pairs = zip(before[0], after[0], strict=True)
    return before[1] == after[1] and all(old[:3] == new[:3] and torch.equal(old[3], new[3]) for old, new in pairs)


@pytest.mark.parametrize("bits", ["fp32", "bf16", "fp16", "int8", "nf4", "fp4"])
def test_model_is_afterwards_what_it_was(load_at, batch_of, bits):
    """Parameters, tied ones too, are bit-identical and every module has its own forward again."""
    model = load_at(bits)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = state(model)
    with float32_gradients(model):
        assert slope_of(model, batch_of(5, 3)).any()
        assert model.lm_head.weight.dtype == torch.float32
    assert same(before, state(model))


@pytest.mark.parametrize("bits", ["bf16", "int8", "nf4"])
def test_model_is_what_it_was_after_an_exception(load_at, bits):
    """What is raised inside passes through, and the model is restored all the same."""
    model = load_at(bits)
    before = state(model)
    with pytest.raises(ZeroDivisionError), float32_gradients(model):
        raise ZeroDivisionError
    assert same(before, state(model))


def test_model_is_what_it_was_when_memory_ends_half_way(load_at, monkeypatch):
    """A layer that cannot be dequantized is the error that is seen, and the layers before it are restored."""
    model = load_at("nf4")
    before = state(model)
    last = list(layers(model, "Linear4bit").values())[-1]

    def dequantize(module):
        if module is last:
            raise MemoryError
        return dequantized(module)

    monkeypatch.setattr(gradients, "dequantized", dequantize)
    with pytest.raises(MemoryError), float32_gradients(model):
        pass
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("bits", "path"),
    [
        ("bf16", "float32"),
        ("fp32", "float32"),
        ("int8", "float32 + int8 kernels"),
        ("nf4", "float32 + 4-bit dequantized"),
        ("fp4", "float32 + 4-bit dequantized"),
    ],
)
def test_path_is_named(load_at, bits, path):
    """The name that goes into the measurement says how gradients were taken."""
    with float32_gradients(load_at(bits)) as name:
        assert name == path


def plain_model(reference, weights):
    """The reference with some layers' weights replaced."""
    model = copy.deepcopy(reference)
    for name, weight in weights.items():
        model.get_submodule(name).weight.data = weight.float().view_as(model.get_submodule(name).weight)
    return model


@pytest.mark.parametrize("bits", ["nf4", "fp4"])
def test_4bit_gradients_are_those_of_the_dequantized_weights(load_at, tiny, batch_of, bits):
    """A plain model that holds bitsandbytes' own dequantization has the same gradient, through every layer."""
    never_run = layers(load_at(bits), "Linear4bit")
    assert len(never_run) == 21
    weights = {n: functional.dequantize_4bit(m.weight.data, m.weight.quant_state) for n, m in never_run.items()}
    expected = slope_of(plain_model(tiny("llama-tied"), weights), batch_of(6, 4))
    model = load_at(bits)
    with float32_gradients(model):
        obtained = slope_of(model, batch_of(6, 4))
    # the same float32 operations on the same numbers
    torch.testing.assert_close(obtained, expected, rtol=1e-5, atol=1e-6)
    assert (slope_of(tiny("llama-tied"), batch_of(6, 4)) - expected).abs().max() > 0.01


@pytest.mark.parametrize("bits", ["nf4", "fp4"])
def test_4bit_gradients_after_the_kernels_have_run(load_at, batch_of, bits):
    """Gradients are the same after the model has answered, where running it may have packed its weights.

    The packed kernel rounds codes, block scales and their products to bfloat16: up to a hundredth of each weight, which
    turned the gradient of this random model by 4.4 degrees (nf4 less).
    """
    model, batch = load_at(bits), batch_of(6, 4)
    with float32_gradients(model):
        expected = slope_of(model, batch)
    with torch.no_grad():
        model(**batch.inputs())
    with float32_gradients(model):
        obtained = slope_of(model, batch)
    assert torch.cosine_similarity(obtained.flatten(), expected.flatten(), dim=0) > (0.99 if PACKED else 0.999999)


@needs_packing
def test_packed_weight_is_what_the_kernel_applies(load_at):
    """Read back through the packed kernel, the weight is the unpacked one but for the rounding of its scales."""
    layer = load_at("nf4").model.layers[0].mlp.down_proj
    unpacked = dequantized(layer)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = layer(x)
    assert layer.weight.quant_state.packing_format_for_cpu
    packed = dequantized(layer)
    # bfloat16 has eight significant bits: 2**-8 at most for the code, for the scale and for their product
    torch.testing.assert_close(packed, unpacked, rtol=3 * 2**-8, atol=1e-6)
    torch.testing.assert_close(x @ packed.T, answer, rtol=0.02, atol=0.02 * float(answer.abs().max()))


@needs_packing
def test_packed_kernel_loses_the_gradient(load_at):
    """The reason for all this: without the context manager the gradient below a packed layer is missing."""
    layer = load_at("nf4").model.layers[0].mlp.down_proj
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = layer(x.requires_grad_())
        slope = torch.autograd.grad(answer.sum(), x, allow_unused=True)[0] if answer.requires_grad else None
    assert slope is None or not torch.allclose(slope, dequantized(layer).sum(0).expand(5, -1), rtol=0.1)


def int8_weight(layer):
    """What an int8 layer's codes and row scales stand for, (out, in) float32."""
    return layer.weight.CB.float() * layer.weight.SCB[:, None] / 127


def test_int8_layer_gradient_is_its_weight(load_at):
    """The backward pass of LLM.int8() multiplies by the dequantized weight, outlier columns included."""
    layer = load_at("int8").model.layers[0].mlp.down_proj
    weight = int8_weight(layer)
    generator = torch.Generator().manual_seed(0)
    x, cotangent = torch.randn(2, 5, 128, generator=generator), torch.randn(2, 5, 64, generator=generator)
    x[0, 0, 7] = 20.0  # an outlier: above 6 a column is multiplied in half precision
    (slope,) = torch.autograd.grad((layer(x.requires_grad_()) * cotangent).sum(), x)
    # float32 sums of 64 terms of order 0.2
    torch.testing.assert_close(slope, cotangent @ weight, rtol=1e-4, atol=1e-5)


def test_int8_gradients_are_near_those_of_the_dequantized_weights(load_at, tiny, batch_of):
    """Through the whole model they differ by what rounding activations to 8 bits in every layer does."""
    weights = {name: int8_weight(layer) for name, layer in layers(load_at("int8"), "Linear8bitLt").items()}
    assert len(weights) == 21
    expected = slope_of(plain_model(tiny("llama-tied"), weights), batch_of(6, 4))
    model = load_at("int8")
    with float32_gradients(model):
        obtained = slope_of(model, batch_of(6, 4))
    assert (obtained - expected).norm() < 0.1 * expected.norm()


def test_bf16_gradients_are_those_of_its_weights_in_float32(load_at, tiny, batch_of):
    """No step of the gradient is rounded to bfloat16."""
    model = load_at("bf16")
    weights = {name[:-7]: p.bfloat16() for name, p in tiny("llama-tied").named_parameters()}
    expected = slope_of(plain_model(tiny("llama-tied"), weights), batch_of(6, 4))
    with float32_gradients(model):
        obtained = slope_of(model, batch_of(6, 4))
    # the same float32 operations on the same numbers
    torch.testing.assert_close(obtained, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("int8_kernels", [True, False])
@pytest.mark.parametrize(
    ("bits", "blocks"), [("fp32", 3), ("bf16", 3), ("fp16", 3), ("int8", 3), ("nf4", 3), ("int8", 1), ("nf4", 1)]
)
def test_gradients_in_pieces_are_those_of_the_whole(load_at, batch_of, bits, int8_kernels, blocks):
    """Every bit, and the model is afterwards what it was; layers outside the blocks may be quantized too."""
    model = load_at(bits)
    before = state(model)
    with float32_gradients(model, int8_kernels=int8_kernels):
        expected = slope_of(model, batch_of(6, 4))
    with float32_gradients_in_pieces(model, model.model.layers[:blocks], int8_kernels=int8_kernels):
        obtained = slope_of(model, batch_of(6, 4))
        assert same((before[0], {}), (state(model)[0], {}))
    assert torch.equal(obtained, expected)
    assert same(before, state(model))


@pytest.mark.parametrize("bits", ["bf16", "nf4"])
def test_pieces_are_what_they_were_after_an_exception(load_at, batch_of, bits):
    """One that fails in the middle of a block."""
    model = load_at(bits)
    before = state(model)
    broken = model.model.layers[1].mlp.act_fn.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), float32_gradients_in_pieces(model, model.model.layers):
        slope_of(model, batch_of(6, 4))
    broken.remove()
    assert same(before, state(model))


@pytest.fixture
def most_alive(monkeypatch):
    """Counts the bytes of float32 weights that live at once, at most."""
    alive, most = weakref.WeakSet(), [0]

    class Counted(torch.nn.Parameter):
        def __new__(cls, data, requires_grad=True):
            made = torch.nn.Parameter(data, requires_grad=requires_grad)
            alive.add(made)
            most[0] = max(most[0], sum(weight.nbytes for weight in alive))
            return made

    monkeypatch.setattr(gradients, "nn", SimpleNamespace(**vars(gradients.nn) | {"Parameter": Counted}))
    return lambda: most[0]


def test_one_piece_is_in_float32_at_a_time(load_at, batch_of, most_alive):
    """With blocks that are recomputed, also between the passes: the block, and the output head that comes after."""
    model = load_at("bf16")
    blocks = model.model.layers
    piece = max(float32_bytes(part).total() for part in (*blocks, model.lm_head))
    x = torch.randn(2, 5, model.config.hidden_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    position = model.model.rotary_emb(x, torch.arange(5)[None])

    def gradient(call):
        with float32_gradients_in_pieces(model, blocks):
            hidden = x
            for block in blocks:
                hidden = call(block, hidden, position_embeddings=position)
            return torch.autograd.grad(model.lm_head(hidden).sum(), x)[0]

    obtained = gradient(recomputed)
    assert most_alive() <= 2 * piece < float32_bytes(model).total()
    assert torch.equal(obtained, gradient(lambda block, *args, **kwargs: block(*args, **kwargs)))
    assert most_alive() > 2 * piece

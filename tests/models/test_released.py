"""A checkpoint that was quantized elsewhere is recognised, loaded as it is, and differentiated by its weights."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.formats import dequantized
from pytest_quantcheck.models.formats.format import Format
from pytest_quantcheck.models.gradients import float32_gradients, gradient_path
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.released import QuantizedCheckpoint, recognise
from pytest_quantcheck.models.source import Source
from tests.models.releases import RELEASES, logits_of, needs, plain_copy, read_tensors, slope_of

LAYERS = 14


@pytest.fixture
def damaged(released, tmp_path):
    """Makes a copy of a release, to be damaged."""
    return lambda name: Path(shutil.copytree(released(name)[0], tmp_path / "damaged"))


@pytest.mark.filterwarnings("ignore")  # the formats' libraries warn of their own future
@pytest.mark.parametrize("name", [needs(name) for name in RELEASES])
def test_release_answers_as_its_maker_saw_it(released, two_blocks, name):
    """Bit for bit as before saving; where the tool cannot run here, as a plain model with the file's weights."""
    release = RELEASES[name]
    folder, made = released(name)
    with load(Source(str(folder), device="cpu"), "released") as loaded:
        assert (loaded.bits, loaded.format) == ("released", release.name)
        assert loaded.module_types[release.label] == LAYERS
        assert loaded.dtype == ("fp16" if name.startswith(("gptq", "awq")) else "bf16")
        assert json.loads(json.dumps(loaded.quantization)) == loaded.quantization
        obtained = logits_of(loaded.model)
        expected = logits_of(made if release.exact else plain_copy(release, two_blocks, folder))
        # On a CPU without bf16 kernels the one plain layer multiplies in float32; the maker's model does not.
        vars(loaded.model.get_output_embeddings()).pop("forward", None)
        as_made = logits_of(loaded.model)
    if release.exact:
        assert torch.equal(as_made, expected)
    # half-precision sums of logits up to 20 against float32
    assert (obtained - expected).abs().max() < 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [needs(name) for name in RELEASES])
def test_gradients_are_those_of_the_weights_in_the_file(released, two_blocks, name):
    """A plain float32 model that holds what the file stands for has the same gradient; then all is as it was."""
    release = RELEASES[name]
    folder, _ = released(name)
    expected = slope_of(plain_copy(release, two_blocks, folder))
    with load(Source(str(folder), device="cpu"), "released") as loaded:
        model = loaded.model
        before = logits_of(model) if "4-bit" not in release.path else None  # which running would pack
        forwards = [vars(module).get("forward") for module in model.modules()]
        with float32_gradients(model, int8_kernels=False) as path:
            obtained = slope_of(model)
        assert path == " + ".join(filter(None, ["float32", release.path])) == gradient_path(model, int8_kernels=False)
        assert [vars(module).get("forward") for module in model.modules()] == forwards
        assert before is None or torch.equal(logits_of(model), before)
    # the same float32 operations; GPTQ's and AWQ's own kernels round their weights to half precision
    tolerance = 1e-4 if release.exact or name == "fp8" else 1e-2
    assert (obtained - expected).norm() < tolerance * expected.norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [needs(name) for name in ["torchao-dynamic", "W8A8", "W8A8-float"]])
def test_rounded_activations_lose_the_gradient(released, name):
    """The reason for dequantizing: through the layers' own forward nothing is left of it, and nothing says so."""
    with load(Source(str(released(name)[0]), device="cpu"), "released") as loaded:
        layer = loaded.model.model.layers[0].mlp.up_proj
        x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        answer = layer(x)
        slope = torch.autograd.grad(answer.sum(), x, allow_unused=True)[0] if answer.requires_grad else None
    assert slope is None or not slope.any()


@pytest.mark.parametrize("name", [needs(name) for name in ["W8A8"]])
def test_weights_that_are_rounded_as_they_run_are_differentiated_so(name):
    """A compressed-tensors layer that was never compressed holds plain weights, and applies rounded ones."""
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config

    model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    scheme = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "tensor", "symmetric": True}}
    apply_quantization_config(model, QuantizationConfig(config_groups={"all": scheme}))
    layer = model[0]
    layer.weight_scale.data.fill_(0.05)
    layer.quantization_status = QuantizationStatus.FROZEN
    assert torch.equal(dequantized(layer), (layer.weight / 0.05).round().clamp(-8, 7) * 0.05)


@pytest.mark.parametrize("name", ["FP8Linear", "FbgemmFp8Linear"])
def test_float8_layers_of_a_gpu_are_read_by_their_scales(name):
    """Their kernels do not run everywhere; what they hold can be read everywhere, blocks that stick out included."""
    from transformers.integrations import fbgemm_fp8, finegrained_fp8

    codes = torch.arange(96 * 160).remainder(7).sub(3).view(96, 160)
    if name == "FP8Linear":
        layer, scale = finegrained_fp8.FP8Linear(160, 96, (64, 128)), torch.tensor([[1.0, 2.0], [4.0, 8.0]])
        layer.weight_scale_inv.data = scale
        expected = codes * scale[torch.arange(96)[:, None] // 64, torch.arange(160) // 128]
    else:
        layer, scale = fbgemm_fp8.FbgemmFp8Linear(160, 96, bias=False), torch.arange(1.0, 97.0)[:, None]
        layer.weight_scale.data = scale
        expected = codes * scale
    layer.weight.data = codes.to(torch.float8_e4m3fn)
    assert torch.equal(dequantized(layer), expected)
    assert gradient_path(layer) == "float32 + float8 dequantized"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("activation_scale", "up_proj.activation_scale is a static scale of activations, .* nothing here applies it"),
        ("input_scale", r"the files hold .*up_proj.input_scale, which .* does not take"),
    ],
)
def test_scales_that_are_not_applied_are_an_error(damaged, part, says):
    """A model of float8 that is dequantized with another scale than its kernel applies is another model."""
    folder = damaged("fp8")
    tensors = read_tensors(folder) | {f"model.layers.0.mlp.up_proj.{part}": torch.tensor(0.1)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=says):
        load(Source(str(folder), device="cpu"), "released")


@pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes packs 4-bit weights only with AVX-512 bf16")
def test_saving_after_running_is_seen(released, two_blocks, tmp_path):
    """Weights that bitsandbytes packed for its CPU kernel come back damaged: the file is what counts, and says so."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(two_blocks, quantization_config=config, device_map={"": "cpu"})
    expected = logits_of(model.eval())
    shutil.copytree(released("nf4")[0], tmp_path, dirs_exist_ok=True)
    model.save_pretrained(tmp_path)
    with load(Source(str(tmp_path), device="cpu"), "released") as loaded:
        assert (logits_of(loaded.model) - expected).abs().max() > 5


def test_plain_checkpoint_is_no_candidate():
    """A model without a quantization_config is refused before its weights are read."""
    with pytest.raises(ModelError, match=r"builtin is not quantized: its config\.json has no quantization_config"):
        load(Source("builtin", device="cpu"), "released")


def rewrite(folder, **changes):
    """Change a checkpoint's quantization_config."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = config.get("quantization_config", {}) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return Source(str(folder), device="cpu")


def test_unknown_method_is_an_error_that_names_the_known(damaged):
    """They are not loaded as if they were plain, which transformers would do."""
    source = rewrite(damaged("int8"), quant_method="magic", load_in_8bit=False)
    with pytest.raises(ModelError, match=r"expected a quant_method of bitsandbytes, torchao.*got 'magic'"):
        load(source, "released")


@pytest.mark.parametrize("named", ["foo", "", "gptq", ["bitsandbytes"], 8])
def test_named_method_goes_before_flags(damaged, named):
    """A `quant_method` that is not bitsandbytes' is not read as such because of flags beside it."""
    source = rewrite(damaged("int8"), quant_method=named, load_in_8bit=True)
    with pytest.raises(ModelError, match=r"expected a quant_method of bitsandbytes") as error:
        recognise(resolve_files(source))
    assert f"got {named!r}" in str(error.value)


def test_flags_alone_mean_bitsandbytes(damaged):
    """As its early releases wrote them."""
    assert (
        recognise(resolve_files(rewrite(damaged("int8"), quant_method=None, load_in_8bit=True))).name
        == "bitsandbytes int8"
    )


def test_quantization_config_that_is_no_object(damaged):
    """It is refused in a sentence."""
    folder = damaged("int8")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": ["int8"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected an object as quantization_config"):
        recognise(resolve_files(Source(str(folder))))


def test_format_without_kernels_here_is_an_error(damaged):
    """The device is named before anything is loaded."""
    source = rewrite(damaged("int8"), quant_method="fbgemm_fp8", load_in_8bit=False)
    with pytest.raises(ModelError, match=r"quantized \(fbgemm fp8\), whose kernels need a CUDA device"):
        load(source, "released")


def test_missing_package_is_named_with_the_command():
    """Those that are there are not asked for."""
    magic = Format(method="magic", describe=lambda _: "magic", packages=("torch", "no-such-package", "nor-this"))
    needed = QuantizedCheckpoint("magic 3 bit", "some/model", magic, {})
    with pytest.raises(
        ModelError, match=r"no-such-package and nor-this are not installed.*pip install no-such-package nor"
    ):
        needed.require(torch.device("cpu"))


@pytest.mark.skipif(importlib.util.find_spec("gptqmodel") is not None, reason="gptqmodel is installed")
def test_absent_gptq_library_is_an_error_before_loading(damaged):
    """A real format whose library is rarely there."""
    source = rewrite(damaged("int8"), quant_method="gptq", bits=4, load_in_8bit=False)
    with pytest.raises(
        ModelError, match=r"quantized \(gptq 4 bit\), which needs gptqmodel and optimum.*pip install gptq"
    ):
        load(source, "released")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes int8"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "bitsandbytes fp4"),
        ({"load_in_4bit": True}, "bitsandbytes fp4"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
            "torchao int4 weight-only",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}}}},
            "compressed-tensors W4A16",
        ),
        ({"quant_method": "awq", "w_bit": 4}, "awq 4 bit"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_format_is_recognised_from_the_configuration_alone(tmp_path, config, name):
    """No weight is looked at, and of a multimodal model it is the text model's that counts."""
    (tmp_path / "model.safetensors").touch()
    for whole in ({"quantization_config": config}, {"text_config": {"quantization_config": config}}):
        (tmp_path / "config.json").write_text(json.dumps(whole))
        assert recognise(resolve_files(Source(str(tmp_path)))).name == name


@pytest.mark.parametrize("groups", [[], {"a": {"weights": 4}}, "none"])
def test_configuration_of_another_shape_is_an_error(damaged, groups):
    """One readable sentence that names the checkpoint."""
    source = rewrite(damaged("int8"), quant_method="compressed-tensors", load_in_8bit=False, config_groups=groups)
    with pytest.raises(ModelError, match=r"compressed-tensors|hold .*SCB.* does not take"):
        load(source, "released")


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_promise_of_quantization_that_is_not_kept_is_an_error(damaged, two_blocks, name):
    """A configuration beside weights that nobody quantized does not make a candidate."""
    folder = damaged(name)
    shutil.copy(two_blocks / "model.safetensors", folder)
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    source = rewrite(folder, llm_int8_skip_modules=every, modules_to_not_convert=every)
    with pytest.raises(ModelError, match=r"has not one quantized layer; its modules are .*'Linear': 15"):
        load(source, "released")

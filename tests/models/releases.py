"""Released checkpoints, written as their makers' tools write them, and what their files stand for, read by hand."""

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TorchAoConfig

GROUP = 32
"""Inputs that share a scale in the 4-bit formats."""

_INT4 = torch.arange(8, dtype=torch.int32) * 4
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class Release:
    """A format: `name` as it is recognised, `label` of its layers in `module_types`, `path` of its gradients.

    `write(source, folder)` makes a checkpoint of it; `read(tensors, layer)` is a layer's weight in float32, by the
    format's definition. `exact`: the writer has a model in memory, which the reloaded one must equal bit for bit.
    """

    name: str
    label: str
    path: str
    write: Callable[[Path, Path], nn.Module]
    read: Callable[[dict[str, torch.Tensor], str], torch.Tensor]
    exact: bool = True


def _quantized_by_transformers(make_config):
    def write(source, folder):
        model = AutoModelForCausalLM.from_pretrained(
            source, quantization_config=make_config(), device_map={"": "cpu"}, dtype="auto"
        ).eval()
        model.save_pretrained(folder)  # before it runs: bitsandbytes packs 4-bit weights then, see docs/formats.md
        return model

    return write


def _bitsandbytes_4bit(kind):
    return _quantized_by_transformers(
        lambda: BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    )


def _torchao(kind, dtype=None):
    """By the name of torchao's configuration; with a dtype, in groups."""

    def make_config():
        from torchao import quantization

        settings = (getattr(torch, dtype), quantization.PerGroup(GROUP)) if dtype else ()
        return TorchAoConfig(getattr(quantization, kind)(*settings))

    return _quantized_by_transformers(make_config)


def _compressed_tensors(weights, activations=None):
    """As llm-compressor does it without calibration data: scales from the extremes, then the package's compressor."""

    def write(source, folder):
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config

        scheme = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
        apply_quantization_config(model, QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"]))
        for module in model.modules():
            if getattr(module, "quantization_scheme", None):
                _set_scales(module)
                module.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(folder)
        compressor.update_config(folder)
        if weights["num_bits"] == 4 and weights["type"] == "int":
            _pack_experts(folder, model)
        return model

    return write


def _set_scales(module):
    """Set the scales and zero points that a layer has by its scheme; static ones are for activations from -6 to 8."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    scheme, weight, low, high = (
        module.quantization_scheme,
        module.weight.data,
        torch.tensor([-6.0]),
        torch.tensor([8.0]),
    )
    if block := scheme.weights.block_structure:
        groups = weight.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0])).transpose(1, 2).flatten(2)
    else:
        groups = weight.unflatten(1, (-1, scheme.weights.group_size or module.in_features))
    found = {}
    for name, extremes in (("weight", (weight.amin(), weight.amax())), ("input", (low, high))):
        if hasattr(module, f"{name}_global_scale"):
            found[f"{name}_global_scale"] = generate_gparam(*extremes)
    whole = found.get("weight_global_scale")
    parts = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights, global_scale=whole)
    found |= dict(zip(("weight_scale", "weight_zero_point"), parts, strict=True))
    if hasattr(module, "input_scale"):
        parts = calculate_qparams(low, high, scheme.input_activations)
        found |= dict(zip(("input_scale", "input_zero_point"), parts, strict=True))
    for name, value in found.items():
        if hasattr(module, name):
            getattr(module, name).data.copy_(value)


def _by_hand(quantize, quantization_config, dtype):
    """For tools that cannot run here: weights are replaced in the file, and the configuration completed.

    Those of all projections and of every expert.
    """

    def write(source, folder):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
        model.save_pretrained(folder)
        _replace_weights(folder, lambda weight: quantize(weight.float()), r"_proj\.weight|\.experts\..*\.weight")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization_config}))
        return model

    return write


def _replace_weights(folder, quantize, names):
    """Replace the weights of such names in a file by what `quantize` makes of them, by the parts' names."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if re.search(names, name)]:
        parts = quantize(tensors.pop(name))
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor.contiguous() for part, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _pack_experts(folder, model):
    """Quantize experts too: in memory they are no layers, which the package would find."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = next(filter(None, (getattr(module, "quantization_scheme", None) for module in model.modules())))
    kept = ["scale", "zero_point"][: 1 if scheme.weights.symmetric else 2]

    def pack(weight):
        groups = weight.unflatten(1, (-1, scheme.weights.group_size))
        found = zip(kept, calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights), strict=False)
        parts = {"weight": weight} | {f"weight_{part}": tensor for part, tensor in found}
        return PackedQuantizationCompressor.compress(parts, scheme)

    _replace_weights(folder, pack, r"\.experts\..*\.weight")


def _codes(weight):
    """Asymmetric 4-bit codes (out, in), scales and zero points (out, groups)."""
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=1e-6).half().float()
    zeros = (-low / scales).round().clamp(1, 15)  # GPTQ stores one less
    codes = ((groups / scales[..., None]).round() + zeros[..., None]).clamp(0, 15)
    return codes.flatten(1).int(), scales, zeros.int()


def _gptq(weight):
    codes, scales, zeros = _codes(weight)
    return {
        "qweight": (codes.t().unflatten(0, (-1, 8)) << _INT4[:, None]).sum(1).int(),
        "qzeros": ((zeros.t() - 1).unflatten(1, (-1, 8)) << _INT4).sum(-1).int(),
        "scales": scales.t().half(),
        "g_idx": (torch.arange(weight.shape[1]) // GROUP).int(),
    }


def _gptq_by_activation(weight):
    """Inputs share scales with others than their neighbours, as with `desc_act`; codes stay in the inputs' order."""
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(0))
    codes, scales, zeros = _codes(weight[:, order])
    sorted_groups = _gptq(weight)["g_idx"]
    back = order.argsort()
    return {
        "qweight": (codes[:, back].t().unflatten(0, (-1, 8)) << _INT4[:, None]).sum(1).int(),
        "qzeros": ((zeros.t() - 1).unflatten(1, (-1, 8)) << _INT4).sum(-1).int(),
        "scales": scales.t().half(),
        "g_idx": sorted_groups[back],
    }


def _awq(weight):
    codes, scales, zeros = _codes(weight)
    packed = [(part.t().unflatten(1, (-1, 8))[..., _AWQ_ORDER] << _INT4).sum(-1).int() for part in (codes, zeros)]
    return {"qweight": packed[0], "qzeros": packed[1], "scales": scales.t().half()}


def _fp8(weight):
    """One scale for each row of blocks of 64: sides of the tiny models divide by it."""
    blocks = weight.unflatten(1, (-1, 64)).unflatten(0, (-1, 64))  # (rows, 64, columns, 64)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).flatten(2).flatten(0, 1)
    return {"weight": codes.to(torch.float8_e4m3fn), "weight_scale_inv": scales}


def _unpack(packed, dim):
    """Eight 4-bit codes of each int32, along a dimension."""
    return torch.stack([(packed >> shift) & 15 for shift in _INT4], dim + 1).flatten(dim, dim + 1)


def _grouped(codes, scales):
    return (codes.float().unflatten(1, (scales.shape[1], -1)) * scales.float()[..., None]).flatten(1)


def _read_4bit(kind):
    def read(tensors, layer):
        state = {
            name.removeprefix(f"{layer}.weight."): tensor for name, tensor in tensors.items() if f"{layer}." in name
        }
        code = state.pop(f"{layer}.weight")
        known = functional.QuantState.from_dict(state, device=torch.device("cpu"))
        return functional.dequantize_4bit(code, known).float()

    return read


def _read_int8(tensors, layer):
    return tensors[f"{layer}.weight"].float() * tensors[f"{layer}.SCB"][:, None] / 127


def _read_torchao(tensors, layer):
    return tensors[f"{layer}._weight_qdata"].float() * tensors[f"{layer}._weight_scale"].float()


def _read_intx(tensors, layer):
    """Its kernel dequantizes in the model's own format."""
    codes = tensors[f"{layer}._weight_qdata"] - tensors[f"{layer}._weight_zero_point"].repeat_interleave(GROUP, 1)
    return _grouped(codes, tensors[f"{layer}._weight_scale"]).bfloat16().float()


def _read_scaled(tensors, layer):
    """Compressed-tensors multiplies in the scale's own format."""
    return (tensors[f"{layer}.weight"].to(torch.bfloat16) * tensors[f"{layer}.weight_scale"]).float()


def _read_packed(tensors, layer):
    codes = _unpack(tensors[f"{layer}.weight_packed"], 1) - 8
    return _grouped(codes, tensors[f"{layer}.weight_scale"]).bfloat16().float()


def _read_asymmetric(tensors, layer):
    codes = _unpack(tensors[f"{layer}.weight_packed"], 1)
    zeros = _unpack(tensors[f"{layer}.weight_zero_point"], 0)
    return _grouped(codes - zeros.repeat_interleave(GROUP, 1), tensors[f"{layer}.weight_scale"]).bfloat16().float()


def _read_blocks(tensors, layer):
    scales = tensors[f"{layer}.weight_scale"].repeat_interleave(64, 0).repeat_interleave(64, 1)
    return (tensors[f"{layer}.weight"].to(torch.bfloat16) * scales).float()


def _fp4(packed):
    """The numbers that two codes of each byte stand for, float32."""
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(1).int()
    return levels[codes & 7] * (1 - 2 * (codes >> 3))


def _read_nvfp4(tensors, layer):
    scales = tensors[f"{layer}.weight_scale"].float() / tensors[f"{layer}.weight_global_scale"]
    return _grouped(_fp4(tensors[f"{layer}.weight_packed"]), scales).bfloat16().float()


def _read_mxfp4(tensors, layer):
    """Each scale is a power of two."""
    scales = 2.0 ** (tensors[f"{layer}.weight_scale"].float() - 127)
    return _grouped(_fp4(tensors[f"{layer}.weight_packed"]), scales).bfloat16().float()


def _read_gptq(tensors, layer):
    codes = _unpack(tensors[f"{layer}.qweight"], 0).t()
    zeros = _unpack(tensors[f"{layer}.qzeros"], 1).t() + 1
    groups = tensors[f"{layer}.g_idx"].long()
    return (codes - zeros[:, groups]).float() * tensors[f"{layer}.scales"].t().float()[:, groups]


def _read_awq(tensors, layer):
    order = torch.tensor(_AWQ_ORDER).argsort()
    codes, zeros = (
        _unpack(tensors[f"{layer}.{part}"], 1).unflatten(1, (-1, 8))[..., order].flatten(1).t()
        for part in ("qweight", "qzeros")
    )
    return _grouped(codes - zeros.repeat_interleave(GROUP, 1), tensors[f"{layer}.scales"].t())


def _read_fp8(tensors, layer):
    scales = tensors[f"{layer}.weight_scale_inv"].repeat_interleave(64, 0).repeat_interleave(64, 1)
    return (tensors[f"{layer}.weight"].float() * scales).bfloat16().float()


_BY_CHANNEL = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
_BY_TOKEN = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
_BY_GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
_BY_TENSOR = {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False, "dynamic": False}
_BY_BLOCK = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [64, 64], "symmetric": True}
_BY_TOKENS_GROUP = _BY_TOKEN | {"type": "float", "strategy": "group", "group_size": 64}
_FP4 = {"num_bits": 4, "type": "float", "symmetric": True}
_NVFP4 = _FP4 | {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
_MXFP4 = _FP4 | {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
_FLOAT = {"type": "float"}
_GPTQ_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}
_AWQ_CONFIG = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
_FP8_CONFIG = {"quant_method": "fp8", "weight_block_size": [64, 64], "activation_scheme": "dynamic"}
_HEAD = {"modules_to_not_convert": ["lm_head"]}

RELEASES = {
    "int8": Release(
        "bitsandbytes int8",
        "Linear8bitLt",
        "int8 dequantized",
        _quantized_by_transformers(lambda: BitsAndBytesConfig(load_in_8bit=True)),
        _read_int8,
    ),
    "nf4": Release("bitsandbytes nf4", "Linear4bit", "4-bit dequantized", _bitsandbytes_4bit("nf4"), _read_4bit("nf4")),
    "fp4": Release("bitsandbytes fp4", "Linear4bit", "4-bit dequantized", _bitsandbytes_4bit("fp4"), _read_4bit("fp4")),
    "torchao-weight": Release(
        "torchao int8 weight-only",
        "Linear[Int8Tensor]",
        "torchao dequantized",
        _torchao("Int8WeightOnlyConfig"),
        _read_torchao,
    ),
    "torchao-dynamic": Release(
        "torchao int8 dynamic-activation int8 weight",
        "Linear[Int8Tensor]",
        "torchao dequantized",
        _torchao("Int8DynamicActivationInt8WeightConfig"),
        _read_torchao,
    ),
    "torchao-float8": Release(
        "torchao float8 weight-only",
        "Linear[Float8Tensor]",
        "torchao dequantized",
        _torchao("Float8WeightOnlyConfig"),
        _read_torchao,
    ),
    "torchao-int4": Release(
        "torchao intx weight-only",
        "Linear[IntxUnpackedToInt8Tensor]",
        "torchao dequantized",
        _torchao("IntxWeightOnlyConfig", "int4"),
        _read_intx,
    ),
    "W8A8": Release(
        "compressed-tensors W8A8",
        "Linear[W8A8]",
        "compressed-tensors dequantized",
        _compressed_tensors(_BY_CHANNEL, _BY_TOKEN),
        _read_scaled,
    ),
    "W4A16": Release(
        "compressed-tensors W4A16",
        "Linear[W4A16]",
        "compressed-tensors dequantized",
        _compressed_tensors(_BY_GROUP),
        _read_packed,
    ),
    "W8A8-float": Release(
        "compressed-tensors W8A8 float",
        "Linear[W8A8 float]",
        "compressed-tensors dequantized",
        _compressed_tensors(_BY_CHANNEL | _FLOAT, _BY_TOKEN | _FLOAT),
        _read_scaled,
    ),
    "W8A8-static": Release(
        "compressed-tensors W8A8",
        "Linear[W8A8]",
        "compressed-tensors dequantized",
        _compressed_tensors(_BY_CHANNEL, _BY_TENSOR),
        _read_scaled,
    ),
    "W4A16-asymmetric": Release(
        "compressed-tensors W4A16",
        "Linear[W4A16]",
        "compressed-tensors dequantized",
        _compressed_tensors(_BY_GROUP | {"symmetric": False}),
        _read_asymmetric,
    ),
    "W8A8-blocks": Release(
        "compressed-tensors W8A8 float",
        "Linear[W8A8 float]",
        "compressed-tensors dequantized",
        _compressed_tensors(_BY_BLOCK, _BY_TOKENS_GROUP),
        _read_blocks,
    ),
    "NVFP4": Release(
        "compressed-tensors W4A4 float",
        "Linear[W4A4 float]",
        "compressed-tensors dequantized",
        _compressed_tensors(_NVFP4, _NVFP4 | {"dynamic": "local"}),
        _read_nvfp4,
    ),
    "MXFP4": Release(
        "compressed-tensors W4A16 float",
        "Linear[W4A16 float]",
        "compressed-tensors dequantized",
        _compressed_tensors(_MXFP4),
        _read_mxfp4,
    ),
    "gptq": Release(
        "gptq 4 bit",
        "TorchCpuAvx512Linear",
        "packed dequantized",
        _by_hand(_gptq, _GPTQ_CONFIG, torch.float16),
        _read_gptq,
        exact=False,
    ),
    "gptq-desc_act": Release(
        "gptq 4 bit",
        "TorchCpuAvx512Linear",
        "packed dequantized",
        _by_hand(_gptq_by_activation, _GPTQ_CONFIG | {"desc_act": True}, torch.float16),
        _read_gptq,
        exact=False,
    ),
    "awq": Release(
        "awq 4 bit",
        "TorchCpuAvx512AwqLinear",
        "packed dequantized",
        _by_hand(_awq, _AWQ_CONFIG | _HEAD, torch.float16),
        _read_awq,
        exact=False,
    ),
    "fp8": Release(
        "fp8", "Linear[F8_E4M3]", "", _by_hand(_fp8, _FP8_CONFIG | _HEAD, torch.bfloat16), _read_fp8, exact=False
    ),
}


def read_tensors(folder):
    """Every tensor of a checkpoint in one file, by its name."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def plain_copy(release, source, folder):
    """The source in float32 with the weights that a release's files stand for."""
    tensors = read_tensors(folder)
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto").float().eval().requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            weight = release.read(tensors, name)
            assert weight.shape == module.weight.shape
            module.weight.data = weight
    return model


def write(release, source, folder):
    """Write a release of a checkpoint with its tokenizer; return the model that its maker had in memory."""
    model = release.write(source, folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return model


PACKAGES = {"torchao": "torchao", "compressed-tensors": "loguru", "gptq": "gptqmodel", "awq": "gptqmodel"}
"""What must be there, beside the package that a format is named after, before it can be written and read."""


def needs(name, *more):
    """The format and what else a test takes, skipped where the format's library is not installed."""
    package = PACKAGES.get(RELEASES[name].name.partition(" ")[0])
    absent = package is not None and importlib.util.find_spec(package) is None
    return pytest.param(name, *more, marks=pytest.mark.skipif(absent, reason=f"needs {package}"))


@torch.no_grad()
def logits_of(model):
    """Logits of four prompts of twelve random tokens."""
    ids = torch.randint(4, 200, (4, 12), generator=torch.Generator().manual_seed(0))
    return model(ids).logits.float()


def slope_of(model):
    """Gradient of one token's log-probability with respect to the embeddings, in the model's own arithmetic."""
    ids = torch.randint(4, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    answer = model(inputs_embeds=embedded).logits[:, -1].float().log_softmax(-1)[:, 5].sum()
    return torch.autograd.grad(answer, embedded)[0]

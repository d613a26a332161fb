"""compressed-tensors: an ordinary layer with a scheme and a forward of its own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.formats.format import (
    Config,
    Contents,
    Format,
    NotAppliedError,
    QuantizedLayer,
    Reader,
    class_name,
    load_as_stored,
    require_parts,
)

_CODES = ".weight_packed"


def _describe(config: Config) -> str:
    return f"compressed-tensors {_scheme_names(config)}"


def _check(contents: Contents, config: Config) -> None:
    """Refuse experts that transformers cannot read, and shapes that contradict their codes.

    It reads some experts as something else, and does not always look at the shape of a packed weight.
    """
    experts = _experts(contents.types)
    if experts and (any(name.endswith(".weight") for name in experts) or not _reads_experts(config)):
        raise NotAppliedError(
            f"{experts[0]} is of an expert. transformers reads experts of this format whose weights are packed without "
            "zero points, by one scheme for the whole model, and whose activations are not quantized; no others. "
            "Measure the checkpoint that it was made from, or another format"
        )
    schemes = [group.get("weights") or {} for group in (config.get("config_groups") or {}).values()]
    bits = {int(scheme["num_bits"]) for scheme in schemes if "num_bits" in scheme}
    for name in contents.types:
        if not name.endswith(".weight_shape"):
            continue
        codes = f"{name.removesuffix('shape')}packed"
        require_parts(contents, {codes: None, name: 2})
        packed, declared = contents.shapes[codes], tuple(contents.read(name).tolist())
        if packed not in {(declared[0], _words(declared[1], width)) for width in bits}:
            raise ValueError(f"{name} says {declared}, and {codes} is of shape {packed}")


def _experts(tensors: Iterable[str]) -> list[str]:
    """Select the tensors of experts that the files hold one by one."""
    return [name for name in tensors if re.search(r"\.experts\.\d+\.", name)]


def _reads_experts(config: Config) -> bool:
    """Say whether transformers dequantizes experts right: zero points are left out, activations are not rounded."""
    groups = list((config.get("config_groups") or {}).values())
    if len(groups) != 1 or (groups[0].get("format") or config.get("format")) != "pack-quantized":
        return False
    return bool((groups[0].get("weights") or {}).get("symmetric")) and not groups[0].get("input_activations")


def _words(codes: int, bits: int) -> int:
    """Count the 32-bit words that codes are packed into."""
    return -(-codes * bits // 32)


def _load(read: Reader, tensors: Collection[str]) -> Any:
    """Load the model and decompress its weights; else the first forward pass would.

    Those of experts are one parameter in the model, and only transformers' own dequantizing makes it of their parts.
    """
    if _experts(tensors):
        from transformers import CompressedTensorsConfig  # noqa: PLC0415 - heavy

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You passed `quantization_config`")
            return read(dtype="auto", quantization_config=CompressedTensorsConfig(dequantize=True))
    with _room_for_packed_zero_points():
        model = load_as_stored(read)
    if hasattr(model, "ct_decompress_hook"):
        model.hf_quantizer.compressor.decompress_model(model)
    return model


@contextmanager
def _room_for_packed_zero_points() -> Iterator[None]:
    """Let packed zero points be loaded.

    compressed-tensors 0.20 packs them when it compresses weights, but not in the model without content into which it
    loads a file, and transformers then finds another shape in the file (W4A16 of asymmetric recipes).
    """
    from compressed_tensors.compressors import PackedQuantizationCompressor  # noqa: PLC0415 - only some models need it

    packed: Any = PackedQuantizationCompressor
    own, compress = vars(packed)["compress"], packed.compress

    def compress_zero_points_too(state: dict[str, torch.Tensor], scheme: Any) -> dict[str, torch.Tensor]:
        compressed: dict[str, torch.Tensor] = compress(state, scheme)
        zero = compressed.get("weight_zero_point")
        if zero is not None and zero.is_meta and zero.dtype is not torch.int32:
            shape = (_words(zero.shape[0], scheme.weights.num_bits), *zero.shape[1:])
            compressed["weight_zero_point"] = torch.empty(shape, dtype=torch.int32, device="meta")
        return compressed

    packed.compress = compress_zero_points_too
    try:
        yield
    finally:
        packed.compress = own


def _matches(module: Any) -> bool:
    scheme = getattr(module, "quantization_scheme", None)
    return (
        scheme is not None and scheme.weights is not None and isinstance(getattr(module, "weight", None), torch.Tensor)
    )


def _label(module: Any) -> str:
    return f"{class_name(module)}[{_scheme_name(module.quantization_scheme.model_dump())}]"


def _scheme_names(config: Config) -> str:
    return " and ".join(dict.fromkeys(map(_scheme_name, (config.get("config_groups") or {}).values())))


def _scheme_name(scheme: dict[str, Any]) -> str:
    """Name the bits of weights and activations, such as `W4A16`."""
    weights, activations = scheme.get("weights") or {}, scheme.get("input_activations") or {}
    kind = " float" if str(getattr(weights.get("type"), "value", weights.get("type"))) == "float" else ""
    return f"W{weights.get('num_bits', 16)}A{activations.get('num_bits', 16)}{kind}"


@torch.no_grad()
def _weight(module: Any) -> torch.Tensor:
    """Round the weight as the forward pass does.

    A weight that was decompressed on loading stays as it is; one that was never compressed is rounded in each pass.
    """
    from compressed_tensors.quantization import forward_quantize  # noqa: PLC0415 - only some models need it

    weight: torch.Tensor = forward_quantize(module, module.weight.data, "weight", module.quantization_scheme.weights)
    return weight.float()


def _stored_types(types: Mapping[str, str], config: Config, _model: nn.Module) -> dict[str, str]:
    """The scheme of each packed weight, such as `W4A16`."""
    schemes = _scheme_names(config)
    return {name.removesuffix(_CODES): schemes for name in types if name.endswith(_CODES)}


COMPRESSED_TENSORS = Format(
    method="compressed-tensors",
    describe=_describe,
    check=_check,
    packages=("compressed-tensors",),
    libraries=("compressed-tensors",),
    load=_load,
    stored_types=_stored_types,
    layers=(QuantizedLayer("compressed-tensors", _matches, _weight, _label),),
)

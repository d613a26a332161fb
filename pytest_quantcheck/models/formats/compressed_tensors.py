"""compressed-tensors: an ordinary layer with a scheme and a forward of its own."""

from __future__ import annotations

from typing import Any

import torch

from pytest_quantcheck.models.formats.format import (
    Config,
    Format,
    QuantizedLayer,
    Reader,
    class_name,
    load_as_stored,
)


def _describe(config: Config) -> str:
    groups = (config.get("config_groups") or {}).values()
    return f"compressed-tensors {' and '.join(dict.fromkeys(map(_scheme_name, groups)))}"


def _load(read: Reader, device: torch.device) -> Any:
    """Load the model and decompress its weights; else the first forward pass would."""
    model = load_as_stored(read, device)
    if hasattr(model, "ct_decompress_hook"):
        model.hf_quantizer.compressor.decompress_model(model)
    return model


def _matches(module: Any) -> bool:
    scheme = getattr(module, "quantization_scheme", None)
    return (
        scheme is not None and scheme.weights is not None and isinstance(getattr(module, "weight", None), torch.Tensor)
    )


def _label(module: Any) -> str:
    return f"{class_name(module)}[{_scheme_name(module.quantization_scheme.model_dump())}]"


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


COMPRESSED_TENSORS = Format(
    method="compressed-tensors",
    describe=_describe,
    packages=("compressed-tensors",),
    libraries=("compressed-tensors",),
    load=_load,
    layers=(QuantizedLayer("compressed-tensors", _matches, _weight, _label),),
)

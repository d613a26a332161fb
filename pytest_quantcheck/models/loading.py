"""Load a model in any format, at any bit-width, and describe it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_quantcheck.bit_widths import WIDTHS
from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.experts import run_experts_one_by_one
from pytest_quantcheck.models.files import CHECK_THE_FILES, ModelFiles, Tensor, resolve_files
from pytest_quantcheck.models.float_formats import DTYPES, dtype_name, multiplies
from pytest_quantcheck.models.formats import find_layer, has_quantized, module_types
from pytest_quantcheck.models.formats.bitsandbytes import quantization_config
from pytest_quantcheck.models.layer_names import renaming
from pytest_quantcheck.models.loaded import LoadedModel, library_versions, plain_values
from pytest_quantcheck.models.neurons import find_neurons, parts_outside_text
from pytest_quantcheck.models.placement import Placement, devices_of, fetched_share, place, set_forward
from pytest_quantcheck.models.pretrained import (
    choose_device,
    library_errors,
    quantizable_modules,
    quantized_on_disk,
    read_config,
    read_model,
    read_tokenizer,
    silence_libraries,
)
from pytest_quantcheck.models.quantized_share import file_sizes, list_weights, quantized_share
from pytest_quantcheck.models.released import QuantizedCheckpoint, check_contents, plain_files, recognise
from pytest_quantcheck.models.served_fields import served_fields_of_loaded
from pytest_quantcheck.models.source import Source, quantized_already
from pytest_quantcheck.records import REFERENCE, RELEASED
from pytest_quantcheck.text import shortened


class _Quantization(NamedTuple):
    """How a model is quantized.

    `stored`: how the files hold the weights, by the model's names, where they were dequantized on loading.
    """

    module_types: dict[str, int]
    config: dict[str, Any] | None
    stored: dict[str, str]


def load(source: Source, load_as: str = REFERENCE) -> LoadedModel:
    """Find a model's files and load it.

    `with load(Source("builtin"), "int8") as loaded:` frees it afterwards. Arguments and errors as of `load_files`.
    """
    files = resolve_files(source)
    if load_as == RELEASED:
        check_contents(files, recognise(files))
    return load_files(files, load_as)


def load_files(files: ModelFiles, load_as: str = REFERENCE, unpacked: ModelFiles | None = None) -> LoadedModel:
    """Load a model as `reference`, as `released`, or at a bit-width.

    Args:
        files: the model's. A reference has the float format that their source names.
        load_as: `reference`; a bit-width by its exact name, such as `int8`; or `released` for a checkpoint that is
            quantized already, which is loaded as its own configuration says and in its own float format.
        unpacked: what a model that is one file was unpacked into; without it, it is unpacked now.

    Raises:
        ModelError: the model cannot be read, does not fit into memory or has no known FFN; a reference is quantized
            already; a quantized model has no quantized layer; a package or device is missing.
    """
    checkpoint = recognise(files) if load_as == RELEASED else None
    if checkpoint:
        checkpoint.require(choose_device(files.source.device))
    with ExitStack() as stack:
        plain = unpacked or stack.enter_context(plain_files(files, load_as))
        dense = _is_dense(load_as, checkpoint)
        placement = place(plain, load_as, dense=dense)
        folder = str(stack.enter_context(plain.linked()))
        with library_errors(plain, load_as, folder):
            tokenizer = read_tokenizer(folder, plain)
            configuration = served_fields_of_loaded(folder, plain, files, tokenizer)
            model = _read_weights(folder, plain, load_as, placement, checkpoint)
            if fetched_share(model) and not dense:
                raise quantized_on_disk(files.name, load_as)
            _prepare_for_inference(model, placement.device)
        quantization = _check_quantization(model, plain, load_as, checkpoint)
        kept = stack.pop_all() if fetched_share(model) else ExitStack()
    sizes = _sizes(model, files, checkpoint, quantization)
    weights = list(list_weights(model, quantization.stored)) if quantization.config else None
    with silence_libraries():  # an unknown layout is traced
        neurons = find_neurons(model, files.source.neurons)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        bits=load_as,
        dtype=dtype_name(model.dtype),
        format=checkpoint.name if checkpoint else load_as if _is_quantized(load_as) else "none",
        device=placement.device,
        devices=devices_of(model, placement),
        neurons=neurons,
        module_types=quantization.module_types,
        quantization=quantization.config,
        quantized_share=quantized_share(weights, neurons.blocks, sizes) if weights is not None else None,
        outside_text=parts_outside_text(model),
        content_hash=files.content_hash,
        configuration=configuration,
        libraries=library_versions(checkpoint.format.packages if checkpoint else ()),
        attribution_memory=files.source.attribution_memory,
        files=kept,
    )


def _read_weights(
    folder: str, files: ModelFiles, load_as: str, placement: Placement, checkpoint: QuantizedCheckpoint | None
) -> Any:
    read = partial(read_model, folder, files, **placement.arguments(folder))
    if checkpoint:
        with quantizable_modules(files.config):
            return checkpoint.format.load(read, files.tensors)
    dtype: Any = DTYPES.get(load_as) or DTYPES.get(files.source.dtype, "auto")
    if not _is_quantized(load_as):
        return read(dtype=dtype)
    stored = dtype if isinstance(dtype, torch.dtype) else read_config(folder, files).dtype or torch.float32
    compute = stored if multiplies(stored, placement.device) else torch.float32
    config = quantization_config(load_as, compute)
    with quantizable_modules(files.config):
        return read(dtype=dtype, quantization_config=config)


def check_placement(files: ModelFiles, load_as: str) -> None:
    """Refuse a model that could not be placed; read no weight.

    Raises:
        ModelError: as of `place`.
    """
    place(files, load_as, dense=_is_dense(load_as, recognise(files) if load_as == RELEASED else None))


def _is_dense(load_as: str, checkpoint: QuantizedCheckpoint | None) -> bool:
    """Tell whether no weight is quantized once it is loaded; those of one file are dequantized."""
    return not _is_quantized(load_as) and (checkpoint is None or checkpoint.format.file is not None)


def _is_quantized(load_as: str) -> bool:
    return load_as in WIDTHS and not WIDTHS[load_as].dtype


def _prepare_for_inference(model: Any, device: torch.device) -> None:
    """Freeze a model, without dropout and with kernels that are fast here."""
    run_experts_one_by_one(model)
    _multiply_in_float32(model, device)
    _pass_contiguous(model.get_output_embeddings())
    model.eval().requires_grad_(requires_grad=False)


def _multiply_in_float32(model: nn.Module, device: torch.device) -> None:
    """Multiply in float32 and round, where the CPU has no half-precision kernels.

    A half-precision kernel with float32 accumulation computes the same; torch's loops are ten times slower.
    """
    for module in model.modules():
        if type(module) is nn.Linear and not find_layer(module) and not multiplies(module.weight.dtype, device):
            set_forward(module, partial(_rounded_linear, module))


def _rounded_linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()
    return nn.functional.linear(x.float(), module.weight.float(), bias).to(x.dtype)


def _pass_contiguous(head: nn.Module | None) -> None:
    """Pass contiguous hidden states to the output head.

    It is called with a slice, the answer position. For a slice torch copies the whole head once for each prompt, which
    takes more than half the time of a forward pass of a 135M model.
    """
    if head is not None:
        head.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))


def _check_quantization(
    model: Any, files: ModelFiles, load_as: str, checkpoint: QuantizedCheckpoint | None
) -> _Quantization:
    """Find module types and quantization, for the provenance.

    Raises:
        ModelError: a reference is quantized, or a candidate is not.
    """
    _refuse_codes_as_weights(model, files)
    _refuse_other_shapes(model, files.name)
    name, types, quantized = files.name, module_types(model), has_quantized(model)
    if checkpoint and not quantized:
        return _describe_dequantized(model, files, types, checkpoint)
    if quantized and not checkpoint and not _is_quantized(load_as):
        raise quantized_already(files.source)
    if not quantized and _is_quantized(load_as):
        raise ModelError(f"{name} loaded as {load_as} has not one quantized layer; its modules are {types}")
    config = getattr(model.config, "quantization_config", None)
    values = config if config is None or isinstance(config, dict) else config.to_dict()
    return _Quantization(types, None if values is None else plain_values(values), {})


def _sizes(
    model: nn.Module, files: ModelFiles, checkpoint: QuantizedCheckpoint | None, quantization: _Quantization
) -> tuple[int, int] | None:
    """Count the bytes of a release's quantized weights, and of all."""
    if checkpoint and checkpoint.format.file:
        return checkpoint.format.file.sizes(checkpoint.header)
    return file_sizes(files, model, quantization.stored) if checkpoint else None


def _refuse_codes_as_weights(model: nn.Module, files: ModelFiles) -> None:
    """Refuse a model whose plain layers hold codes of a quantized weight.

    transformers does so where the configuration excepts a layer that the files hold quantized.
    """
    codes = {name for name, tensor in _tensors_of_model(model, files).items() if tensor.dtype in {"I8", "U8"}}
    plain = [name for name, module in model.named_modules() if f"{name}.weight" in codes and find_layer(module) is None]
    if plain:
        raise ModelError(
            f"{files.name}: the files hold codes of a quantized weight for {shortened(plain)}, and config.json says "
            "that it is not quantized. Check which layers its quantization_config excepts, and how it was saved"
        )


def _tensors_of_model(model: nn.Module, files: ModelFiles) -> dict[str, Tensor]:
    """Return the files' tensors by their layers' names in the model."""
    rename = renaming(model)
    parts = ((name.rpartition("."), tensor) for name, tensor in files.tensors.items())
    return {f"{rename(layer)}.{part}": tensor for (layer, _, part), tensor in parts}


def _refuse_other_shapes(model: nn.Module, name: str) -> None:
    """Refuse a quantized linear layer of another shape than the configuration expects."""
    for layer_name, module in model.named_modules():
        layer = find_layer(module)
        expected = getattr(module, "out_features", None), getattr(module, "in_features", None)
        if layer and None not in expected and (shape := layer.shape(module)) not in {None, expected}:
            raise ModelError(
                f"{name}: {layer_name}.weight is of shape {shape}, and config.json expects {expected}. "
                f"{CHECK_THE_FILES}"
            )


def _describe_dequantized(
    model: Any, files: ModelFiles, types: dict[str, int], checkpoint: QuantizedCheckpoint
) -> _Quantization:
    """Find module types and quantization of a model dequantized on loading."""
    in_files = {name: tensor.dtype for name, tensor in _tensors_of_model(model, files).items()}
    stored = checkpoint.format.stored_types(in_files, checkpoint.header, model)
    if not stored:
        raise ModelError(
            f"{checkpoint.model} says that it is quantized ({checkpoint.name}) and has not one quantized layer; "
            f"its modules are {types}. Check how it was made and saved"
        )
    return _Quantization(module_types(model, stored), plain_values(checkpoint.format.record(checkpoint.header)), stored)

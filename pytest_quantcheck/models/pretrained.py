"""How files become a model or a tokenizer that can be measured, and what is said when they do not."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.float_formats import multiplies
from pytest_quantcheck.models.formats.quantized_layers import kind_of
from pytest_quantcheck.models.source import Source, local_path
from pytest_quantcheck.records import RELEASED


def choose_device(device: str) -> torch.device:
    """The device by its name; `auto` is the first CUDA device, or the CPU where there is none."""
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"--quantcheck-device={device}: expected auto, cpu or cuda[:N]") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"--quantcheck-device={device}: torch {torch.__version__} sees no CUDA device here")
    return chosen


def file_arguments(source: Source) -> tuple[str, dict[str, Any]]:
    """The name and the keyword arguments that find a model's files, for `from_pretrained`."""
    common = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    return str(local_path(source.model) or source.model), common


def check_folder(source: Source) -> None:
    """Refuse a local path that leads to no checkpoint, of which libraries say something else.

    Raises:
        ModelError: there is no `config.json`.
    """
    folder = local_path(source.model)
    if folder is not None and not (folder / "config.json").exists():
        raise ModelError(
            f"{source.origin or source.model}: expected a checkpoint, found no config.json; check the path"
        )


def read_tokenizer(source: Source) -> Any:
    """The tokenizer, padding on the left, with a padding token."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    name, arguments = file_arguments(source)
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def read_model(source: Source, **extra: Any) -> Any:
    """The model as the files have it, unpickled only where that is allowed."""
    name, arguments = file_arguments(source)
    safe = {} if source.allow_pickle else {"use_safetensors": True}
    return pretrained(name, **arguments, **safe, **extra)


def prepare_for_inference(model: Any, device: torch.device) -> Any:
    """The model as it is measured: without dropout, its parameters frozen, its kernels those that are fast here."""
    _multiply_in_float32(model, device)
    _hand_over_contiguous(model.get_output_embeddings())
    return model.eval().requires_grad_(requires_grad=False)


def pretrained(name: str, **arguments: Any) -> Any:
    """A model whose every weight comes from the checkpoint; transformers makes up those that are not there."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    model, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **arguments)
    made_up = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if made_up:
        more = f" and {len(made_up) - 3} more" if len(made_up) > 3 else ""
        raise ModelError(
            f"{name}: weights are missing or of another shape than config.json says: {', '.join(made_up[:3])}{more}. "
            "Check that the files are complete and belong together."
        )
    return model


def _multiply_in_float32(model: nn.Module, device: torch.device) -> None:
    """Where the CPU has no half-precision matrix kernels, multiply in float32 and round the result.

    That is what a half-precision kernel with float32 accumulation computes, and ten times faster than the loops
    that torch falls back to.
    """
    for module in model.modules():
        if type(module) is nn.Linear and not kind_of(module) and not multiplies(module.weight.dtype, device):
            module.forward = partial(_rounded_linear, module)  # type: ignore[method-assign]


def _rounded_linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()
    return nn.functional.linear(x.float(), module.weight.float(), bias).to(x.dtype)


def _hand_over_contiguous(head: nn.Module | None) -> None:
    """Give the output head contiguous hidden states.

    Only the answer position's are wanted of it, a slice, and for a slice torch copies the whole head once for each
    prompt: more than half the time of a forward pass of a 135M model.
    """
    if head is not None:
        head.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))


@contextmanager
def translate_load_errors(source: Source, bits: str) -> Iterator[None]:
    """Turn whatever a library raises while loading into one sentence about this model."""
    name = source.origin or source.model
    at = "as released" if bits == RELEASED else f"at {bits}"
    try:
        yield
    except ModelError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name} {at} does not fit into memory: {_first_line(error)}; use a larger machine, "
            "--quantcheck-device or a smaller float format (--quantcheck-dtype)"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{name} cannot be loaded {at}: {type(error).__name__}: {_first_line(error)}. {_next_step(source, error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:400].rstrip(".") + ("…" if len(text) > 400 else "")


def _next_step(source: Source, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "The checkpoint brings code of its own: allow it with --quantcheck-trust-remote-code if you trust it."
    if "model.safetensors" in text and not source.allow_pickle:
        return "If its weights are pickled (pytorch_model.bin) and you trust them: --quantcheck-allow-pickle."
    if local_path(source.model) is None:
        return "Check the hub id and --quantcheck-revision, the network and HF_HUB_OFFLINE."
    return "Check that the files are complete and belong together."


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Keep to themselves what libraries draw, print and log below an error while they load a model.

    torchao logs each kernel that this machine lacks when it is imported, compressed-tensors and transformers draw
    bars that have no switch, and bitsandbytes logs once per layer and forward pass. A user can mend none of it.
    """
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - heavy, and keeps this stderr

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    shown: Callable[[], bool] = transformers_logging.is_progress_bar_enabled
    before, disabled = shown(), logging.root.manager.disable
    transformers_logging.disable_progress_bar()
    logging.disable(max(disabled, logging.WARNING))
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        if before:
            transformers_logging.enable_progress_bar()

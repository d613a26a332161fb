"""Read models and tokenizers from files, and translate the libraries' errors."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.source import Source, local_path
from pytest_quantcheck.records import RELEASED
from pytest_quantcheck.user_files import CONFIG_BYTES, read_file


def choose_device(device: str) -> torch.device:
    """Return the device of a name; `auto` is the first CUDA device, or the CPU without one.

    Raises:
        ModelError: the name is not a device, or the CUDA device is not there.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"--quantcheck-device={device}: expected auto, cpu or cuda[:N]") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"--quantcheck-device={device}: torch {torch.__version__} sees no CUDA device here")
    if chosen.type == "cuda" and (chosen.index or 0) >= (there := torch.cuda.device_count()):
        raise ModelError(f"--quantcheck-device={device}: expected cuda:0 to cuda:{there - 1}, which are here")
    return chosen


def file_arguments(source: Source) -> tuple[str, dict[str, Any]]:
    """Return the name and keyword arguments by which `from_pretrained` finds the files."""
    common = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    return str(local_path(source.model) or source.model), common


def check_folder(source: Source) -> None:
    """Refuse a local path without a checkpoint; the libraries' own message would mislead.

    Raises:
        ModelError: there is no `config.json`, or it is too large, too deep or no regular file.
    """
    folder, name = local_path(source.model), source.origin or source.model
    if folder is None:
        return
    if not (folder / "config.json").exists():
        raise ModelError(f"{name}: expected a checkpoint, found no config.json; check the path")
    try:
        json.loads(read_file(folder / "config.json", CONFIG_BYTES))
    except OSError as problem:
        raise ModelError(f"{name}: cannot read config.json: {problem.strerror}; fetch the model again") from None
    except RecursionError:
        raise ModelError(f"{name}: config.json is nested too deeply to be a model's; fetch the model again") from None
    except ValueError:
        return  # transformers says where


def read_tokenizer(source: Source) -> Any:
    """Return the tokenizer, padding on the left, with a padding token."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    name, arguments = file_arguments(source)
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def read_model(source: Source, **extra: Any) -> Any:
    """Return the model as the files have it; pickled weights are read only if allowed."""
    name, arguments = file_arguments(source)
    safe = {} if source.allow_pickle else {"use_safetensors": True}
    return read_complete(name, **arguments, **safe, **extra)


def read_complete(name: str, **arguments: Any) -> Any:
    """Return a model whose every weight comes from the checkpoint.

    Raises:
        ModelError: a weight is missing or has another shape; transformers would fill it with random numbers.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    model, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **arguments)
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"{name}: weights are missing or of another shape than config.json says: {', '.join(missing[:3])}{more}. "
            "Check that the files are complete and belong together."
        )
    return model


@contextmanager
def translate_load_errors(source: Source, load_as: str) -> Iterator[None]:
    """Turn a library's error while loading into one sentence about this model."""
    name = source.origin or source.model
    at = "as released" if load_as == RELEASED else f"at {load_as}"
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
    """Suppress what libraries draw, print and log while they load a model.

    Errors are still logged.
    torchao logs each kernel that this machine lacks when it is imported. compressed-tensors and transformers draw bars
    that have no switch. bitsandbytes logs once for each layer and forward pass. A user can change none of it.
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

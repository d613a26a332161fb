"""Read models and tokenizers from files, and translate the libraries' errors."""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.models.files import CHECK_THE_FILES, CONFIG, ModelFiles
from pytest_quantcheck.records import RELEASED
from pytest_quantcheck.text import shortened


def choose_device(device: str) -> torch.device:
    """Find the device of a name; `auto` is the first CUDA device, or the CPU without one.

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
    if chosen.type == "cuda" and (chosen.index or 0) >= (n_devices := torch.cuda.device_count()):
        raise ModelError(f"--quantcheck-device={device}: expected cuda:0 to cuda:{n_devices - 1}, which are here")
    return chosen


@contextmanager
def library_folder(files: ModelFiles, load_as: str) -> Iterator[str]:
    """Yield a folder from which libraries read a model's files; they find no others there.

    Errors as of `library_errors`.
    """
    with files.linked() as linked:
        folder = str(linked)
        with library_errors(files, load_as, folder):
            yield folder


@contextmanager
def library_errors(files: ModelFiles, load_as: str, folder: str) -> Iterator[None]:
    """Turn a library's error into one sentence about a model.

    What libraries draw and log meanwhile is suppressed. `folder`: from which they read the model's files.

    Raises:
        ModelError: in place of a library's error.
    """
    try:
        with silence_libraries():
            yield
    except Exception as error:
        text = " ".join(str(error).replace(folder, str(files.folder)).split())
        own = isinstance(error, ModelError)
        raise (ModelError(text) if own else _translated(error, text, files.name, load_as)) from error


def _translated(error: Exception, text: str, name: str, load_as: str) -> ModelError:
    at = "as released" if load_as == RELEASED else f"at {load_as}"
    first = text[:400].rstrip(".") + ("…" if len(text) > 400 else "")
    if "dispatched on the CPU or the disk" in text:
        return quantized_on_disk(name, load_as)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ModelError(
            f"{name} {at} does not fit into memory: {first}; use a larger machine, "
            "--quantcheck-device or a smaller float format (--quantcheck-dtype)"
        )
    return ModelError(f"{name} cannot be loaded {at}: {type(error).__name__}: {first}. {_next_step(text)}")


def quantized_on_disk(
    name: str, load_as: str, found: str = "does not fit the memory that its weights may take"
) -> ModelError:
    """Make the error for quantized weights that do not fit."""
    return ModelError(
        f"{name} as {load_as} {found}, and quantized weights are not read from disk while they are used: give them "
        "more with --quantcheck-max-memory, or take a larger machine"
    )


def _next_step(text: str) -> str:
    if "trust_remote_code" in text:
        return "The checkpoint brings code of its own: allow it with --quantcheck-trust-remote-code if you trust it."
    return CHECK_THE_FILES


def read_config(folder: str, files: ModelFiles) -> Any:
    """Read the configuration as transformers reads it."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    return AutoConfig.from_pretrained(folder, trust_remote_code=files.source.trust_remote_code)


def read_tokenizer(folder: str, files: ModelFiles) -> Any:
    """Read the tokenizer, padding on the left, with a padding token."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    trusted = files.source.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=trusted)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def read_tokenizer_and_context(files: ModelFiles, load_as: str) -> tuple[Any, int | None]:
    """Read a directory's tokenizer, and the most tokens that the model reads.

    Errors as of `library_folder`.
    """
    with library_folder(files, load_as) as folder:
        return read_tokenizer(folder, files), context_of(read_config(folder, files))


def context_of(config: Any) -> int | None:
    """Find the most tokens that a model of a configuration reads; None where it does not say."""
    length: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return length


def auto_class(config: Any) -> Any:
    """Find the class of transformers that makes a configuration's model: text inside a multimodal wrapper, or alone.

    The class for text alone would not know most wrappers, and leave the other parts of some out.

    Raises:
        ModelError: the configuration is that of an encoder-decoder, whose decoder alone transformers would take, or of
            no causal language model that this transformers knows.
    """
    from transformers import (  # noqa: PLC0415 - heavy
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
        __version__,
    )

    if config.is_encoder_decoder:
        raise ModelError(
            f"{CONFIG} describes an encoder-decoder (model_type {config.model_type}), and a causal language model was "
            "expected: one stack of blocks that continues a prompt"
        )
    is_wrapper = config.get_text_config(decoder=True) is not config
    if is_wrapper and type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return AutoModelForMultimodalLM
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "auto_map", None):
        raise ModelError(
            f"transformers {__version__} knows no causal language model of model_type {config.model_type}, which "
            f"{CONFIG} says; gate a causal language model, or install a transformers that knows it"
        )
    return AutoModelForCausalLM


def read_model(folder: str, files: ModelFiles, **extra: Any) -> Any:
    """Read the model as the files have it; pickled weights are read only if allowed."""
    safe = {} if files.source.allow_pickle else {"use_safetensors": True}
    auto, trusted = auto_class(read_config(folder, files)), files.source.trust_remote_code
    return read_complete(auto, folder, name=files.name, trust_remote_code=trusted, **safe, **extra)


@contextmanager
def quantizable_modules(config: Mapping[str, Any]) -> Iterator[None]:
    """Make a quantized Falcon of plain linear modules.

    transformers quantizes none of a subclass, and all of Falcon's are of one. It computes the same, but for the bias,
    which it adds to the rounded product.
    """
    if config.get("model_type") != "falcon":
        yield
        return
    from transformers.models.falcon import modeling_falcon  # noqa: PLC0415 - heavy

    own = modeling_falcon.FalconLinear
    modeling_falcon.FalconLinear = torch.nn.Linear
    try:
        yield
    finally:
        modeling_falcon.FalconLinear = own


def read_complete(auto: Any, folder: str, *, name: str, **arguments: Any) -> Any:
    """Read a model that takes exactly the tensors of the checkpoint.

    `auto`: the class of transformers that makes it.

    Raises:
        ModelError: a weight is missing or has another shape, which transformers would fill with random numbers; or the
            model does not take a tensor of the files, such as a scale.
    """
    try:
        model, report = auto.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
        )
    except Exception as error:
        if report := _report_so_far(error):
            for tensor, cause in report["conversion_errors"].items():
                raise ModelError(f"{name}: {tensor} cannot be read: {_last_error(cause)}. {CHECK_THE_FILES}") from error
            refuse_differences(name, report)
        raise
    refuse_differences(name, report)
    return model


def _report_so_far(error: Exception) -> Mapping[str, Any]:
    """Find what transformers had found about the tensors when it failed; its error points at a log, or says nothing."""
    reports = [frame.f_locals.get("loading_info") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((vars(report) for report in reversed(reports) if hasattr(report, "conversion_errors")), {})


def _last_error(log: str) -> str:
    """Find the last error in a log that holds tracebacks."""
    errors = [line for line in log.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return errors[-1][:200].rstrip(".") if errors else "its parts do not belong together"


def refuse_differences(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a model by the differences that transformers found while loading it.

    Raises:
        ModelError: names the tensors, and the shapes that were found and expected.
    """
    for tensor, stored, expected in sorted(report["mismatched_keys"])[:1]:
        raise ModelError(
            f"{name}: {tensor} is of shape {tuple(stored)}, and config.json expects {tuple(expected)}. "
            f"{CHECK_THE_FILES}"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{name}: the files lack {shortened(missing)}, which config.json expects. {CHECK_THE_FILES}")
    if unexpected := sorted(report["unexpected_keys"]):
        raise ModelError(
            f"{name}: the files hold {shortened(unexpected)}, which a model of this config.json does not take: they "
            f"would be left out without a word. {CHECK_THE_FILES}"
        )


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Silence libraries' bars, prints, logs and warnings while a model loads.

    Errors are still logged. Python warns of strange escapes in a module of torchao's that was never compiled, and under
    `-W error` cannot import it.
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
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), ignore_library_warnings():
            yield
    finally:
        logging.disable(disabled)
        if before:
            transformers_logging.enable_progress_bar()

"""What a model's files say of how it is computed and served."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pytest_quantcheck.models.encoding import vocabulary_hash
from pytest_quantcheck.models.files import ModelFiles
from pytest_quantcheck.models.pretrained import library_folder, read_config, read_tokenizer
from pytest_quantcheck.models.released import find_file_format
from pytest_quantcheck.serving import GENERATION_CONFIG

_NOT_SERVED = re.compile(
    r"_name_or_path|_from_model_config|transformers_version|dtype|id2label|label2id|problem_type|summary_\w+|"
    r"\w*dropout\w*|\w+_pdrop|\w*layerdrop|initializer_\w+|init_\w+|\w*aux_loss_coef|z_loss_coefficient|"
    r"\w*jitter_noise|mtp_\w+|num_mtp_layers|num_nextn_predict_layers|pretraining_tp|chunk_size_feed_forward|"
    r"return_dict\w*|output_(hidden_states|attentions|scores|logits|router_logits)|use_cache|use_mtp|cache_\w+|"
    r"max_cache_len|low_memory|\w*compile\w*|\w*assistant\w*|\w*lookbehind|prompt_lookup_\w+|max_matching_\w+|"
    r"speculation_type|prefill_chunk_size|(quantization|text|vision|audio|continuous_batching)_config"
)
"""Fields that decide neither what is computed nor when it stops: of training, of memory and speed, of other heads."""

_CHAT_TEMPLATE = "tokenizer.chat_template"

_OF_NO_CLASS = {"model_type", "per_layer_config"}
"""What a configuration says beside the fields of its class."""

_SAID_BY_LAYER_TYPES = {"max_window_layers", "sliding_window_pattern", "use_sliding_window"}
"""What older configurations say of the types of their layers; transformers makes `layer_types` of it."""


def served_fields(files: ModelFiles, load_as: str) -> dict[str, str]:
    """Read what decides how a model is computed and served; no weight is read.

    Returns:
        By names such as `config.rms_norm_eps`, `generation_config.eos_token_id` and `tokenizer.chat_template`, values
        as text or JSON, floats to seven digits, of long ones the SHA-256. Of a configuration all that its class knows,
        under the standard names, with defaults filled in; of a GGUF file what its metadata say.

    Raises:
        ModelError: a file cannot be read.
    """
    if files.is_one_file:
        return _file_fields(files)
    with library_folder(files, load_as) as folder:
        return _directory_fields(folder, files, read_tokenizer(folder, files))


def served_fields_of_loaded(folder: str, plain: ModelFiles, files: ModelFiles, tokenizer: Any) -> dict[str, str]:
    """Describe a model whose tokenizer is read already; a GGUF file's vocabulary is known then too.

    `plain` is what `files` were unpacked into, or the same; `folder` is from where a library reads it.
    """
    if files.is_one_file:
        return _file_fields(files) | {"tokenizer.vocabulary": vocabulary_hash(tokenizer)}
    return _directory_fields(folder, plain, tokenizer)


def _file_fields(files: ModelFiles) -> dict[str, str]:
    packed = find_file_format(files)
    assert packed is not None  # it is one file
    values = packed[1].served_fields(packed[1].read_header(files.paths[0]))
    return _as_text(values | {_CHAT_TEMPLATE: _sha256(values[_CHAT_TEMPLATE])})


def _directory_fields(folder: str, files: ModelFiles, tokenizer: Any) -> dict[str, str]:
    from transformers import GenerationConfig  # noqa: PLC0415 - heavy

    config = read_config(folder, files)
    text = config.get_text_config(decoder=True)
    has_file = GENERATION_CONFIG in files.names
    generation = GenerationConfig.from_pretrained(folder) if has_file else GenerationConfig.from_model_config(config)
    return _as_text(
        {f"config.{name}": value for name, value in config_fields(text)}
        | ({} if text is config else {f"wrapper.{name}": value for name, value in _wrapper_fields(config)})
        | {GENERATION_CONFIG: "present" if has_file else "missing"}
        | {f"generation_config.{name}": value for name, value in _flat(generation.to_dict())}
        | {f"tokenizer.{name}": value for name, value in _tokenizer_fields(tokenizer)}
    )


def config_fields(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields that the configuration's class knows; others do nothing."""
    standard = {own: name for name, own in getattr(config, "attribute_map", {}).items()}
    values = {standard.get(name, name): value for name, value in config.to_dict().items()}
    if is_dataclass(config):
        known = {standard.get(field.name, field.name) for field in fields(config)} | _OF_NO_CLASS
        values = {name: value for name, value in values.items() if name in known}
    if "layer_types" in values:
        values = {name: value for name, value in values.items() if name not in _SAID_BY_LAYER_TYPES}
    yield from _flat(values)


def _wrapper_fields(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields around the text model: a multimodal configuration's own, and those of its other parts."""
    parts = tuple(f"{name}." for name in config.sub_configs)
    yield from ((name, value) for name, value in config_fields(config) if not name.startswith(parts))
    text = config.get_text_config(decoder=True)
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None and part is not text:
            yield from ((f"{name}.{field}", value) for field, value in config_fields(part))


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested objects."""
    for name, value in values.items():
        if not prefix and _NOT_SERVED.fullmatch(name):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif prefix + str(name) != "rope_parameters.type":  # an older name of `rope_type`, kept beside it
            yield f"{prefix}{name}", value


def _tokenizer_fields(tokenizer: Any) -> Iterator[tuple[str, Any]]:
    for token in ("bos", "eos", "unk"):
        yield f"{token}_token_id", getattr(tokenizer, f"{token}_token_id", None)
    yield "pad_token_id", None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id
    ids = tokenizer("a")["input_ids"]
    yield "add_bos_token", bool(ids) and ids[0] == tokenizer.bos_token_id
    yield "add_eos_token", len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    yield "added_tokens", _sha256(_added_tokens(tokenizer))
    yield "vocabulary", vocabulary_hash(tokenizer)
    template = getattr(tokenizer, "chat_template", None)
    templates = dict(template) if isinstance(template, Mapping) else {"default": template}
    yield "chat_template", _sha256(templates.pop("default", None))
    yield from ((f"chat_template.{name}", _sha256(text)) for name, text in templates.items())


def _added_tokens(tokenizer: Any) -> str:
    """Write the added tokens, with how each is matched and shown."""
    tokens = getattr(tokenizer, "added_tokens_decoder", {})
    return "\n".join(f"{number} {token!r}" for number, token in sorted(tokens.items()))


def _sha256(text: str | None) -> str:
    return "null" if text is None else hashlib.sha256(text.encode()).hexdigest()


def _as_text(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(_rounded(value), ensure_ascii=False, default=str)
        for name, value in sorted(_with_sorted_tokens(values))
    }


def _with_sorted_tokens(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values; of tokens that end an answer alike the order does not count, nor brackets around one."""
    for name, value in values.items():
        if name.endswith("_token_id") and isinstance(value, list) and all(isinstance(item, int) for item in value):
            numbers = sorted(set(value))
            yield name, numbers[0] if len(numbers) == 1 else numbers
        else:
            yield name, value


def _rounded(value: Any) -> Any:
    """Round floats to the 32 bits of a GGUF file; write whole ones as integers."""
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        rounded = float(f"{value:.7g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value

"""A tiny model of every type that transformers lists as a causal language model, and what a gate makes of it.

`python -m tests.causal_models` writes that down, for the reference and its test.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.encoding import Batch, collate
from pytest_quantcheck.models.loading import LoadedModel, load
from pytest_quantcheck.models.partial_forward import PartialForward
from pytest_quantcheck.models.pretrained import auto_class
from pytest_quantcheck.models.projections import ffns_of
from pytest_quantcheck.models.source import Source
from tests.tiny_models import make_tokenizer

FOUND = Path(__file__).with_suffix(".toml")
TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_MOST_PARAMETERS = 100_000_000
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "n_group": 1,
    "topk_group": 1,
    "sliding_window": 4,
}
"""Sizes that a configuration gets where it has such a field."""

_BESIDE_THE_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "depth": 2,
    "out_hidden_size": 64,
    "image_size": 28,
    "patch_size": 14,
    "vocab_size": 96,
}
"""Sizes of the other parts of a wrapper, where they have such a field."""

_LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32}
_LATENT |= {"num_key_value_heads": 4}
_DENSE_FIRST = {"first_k_dense_replace": 1}
_PER_LAYER = {"vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 32}

_OWN: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "deepseek_v2": _DENSE_FIRST | {"num_experts_per_tok": 2},
    "deepseek_v3": _DENSE_FIRST,
    "deepseek_v32": _DENSE_FIRST,
    "dots1": _DENSE_FIRST | {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "gemma3n_text": _PER_LAYER
    | {
        "num_kv_shared_layers": 0,
        "intermediate_size": 128,
        "laurel_rank": 32,
        "activation_sparsity_pattern": [0.0] * 3,
    },
    "gemma4": _PER_LAYER,
    "gemma4_text": _PER_LAYER,
    "glm_moe_dsa": _DENSE_FIRST,
    "gpt_neo": {"attention_types": [[["global"], 3]]},
    "gptj": {"rotary_dim": 8},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"num_layers": 3, "ffn_hidden_size": 128, "expert_ffn_hidden_size": 64, "moe_topk": 2}
    | {"head_dim": 32, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a type needs besides."""


class Found(NamedTuple):
    """What a gate makes of a type: `gated` is `whole`, `in part`, `refused` or `not tried`; `how` says where or why."""

    gated: str
    how: str


def configuration(kind: str) -> Any:
    """The configuration of a tiny model; the text part of a wrapper is tiny, its other parts are as by default."""
    known = CONFIG_MAPPING[kind]
    default = known()
    text = default.get_text_config(decoder=True)
    own = _sized(text, _SIZES) | _IDS
    own |= (_LATENT if _has(text, "kv_lora_rank") else {}) | _OWN.get(kind, {})
    if text is default:
        return known(**own)
    parts = {name: part for name, part in vars(default).items() if isinstance(part, PretrainedConfig)}
    (name,) = (name for name, part in parts.items() if part is text)
    beside = {other: _sized(part, _BESIDE_THE_TEXT) for other, part in parts.items() if other != name}
    return known(**{name: own | {"model_type": text.model_type}, **beside})


def make(kind: str) -> Any:
    """A model of this type whose every parameter is random and matters."""
    config = configuration(kind)
    auto = auto_class(config)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise MemoryError(f"its parts beside the text have {size:,} weights")
    generator = torch.Generator().manual_seed(0)
    model = auto.from_config(config)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.2 * noise if parameter.dim() > 1 else parameter.data + 0.1 * noise
    return model.eval()


def describe(kind: str, tokenizer: Any, folder: Path) -> Found:
    """Make a tiny model of a type, save it, load it at both bit-widths and at full precision, and run it."""
    try:
        auto_class(CONFIG_MAPPING[kind]())
        make(kind).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except ModelError as error:
        return Found("refused", _first(error, folder))
    except Exception as error:
        return Found("not tried", f"a tiny model cannot be made: {_first(error, folder)}")
    source = Source(str(folder), device="cpu")
    try:
        for width in ("int8", "nf4"):
            load(source, width)
        return _look(load(source))
    except ModelError as error:
        return Found("refused", _first(error, folder))


def _prompts() -> Batch:
    generator = torch.Generator().manual_seed(1)
    encoded = [torch.randint(3, 96, (length,), generator=generator).tolist() for length in (6, 4)]
    return collate(encoded, range(2), pad=0, device=torch.device("cpu"))


def _look(loaded: LoadedModel) -> Found:
    """Run a model; say where the neurons are and which part attributions run."""
    neurons, batch = loaded.neurons, _prompts()
    layers = [n for n, found in enumerate(neurons.activations) if found or n in neurons.mixtures]
    forward = PartialForward(loaded.model, neurons, layers, batch, torch.tensor([5, 6]))
    whole = [n for n in layers if next(forward.paths(n, forward.start(n, None))).whole]
    for layer in layers:
        ffns_of(loaded, layer)
    how = ", ".join(sorted({_path(loaded.model, neurons.activations[n]) for n in layers if neurons.activations[n]}))
    if neurons.mixtures:
        how = f"{how} and experts" if how else "experts"
    if neurons.traced:
        how += ", traced"
    if whole:
        how += "; attributions run the whole model"
    if len(layers) < len(neurons.blocks):
        return Found("in part", f"{how}; {len(neurons.blocks) - len(layers)} of {len(neurons.blocks)} blocks not")
    return Found("whole", how)


def _path(model: Any, module: Any) -> str:
    path = next(name for name, found in model.named_modules() if found is module)
    return ".".join("{}" if part.isdecimal() else part for part in path.split("."))


def _first(error: BaseException, folder: Path) -> str:
    """The first part of an error's text, without the folder."""
    text = " ".join(str(error).replace(f"{folder} ", "").split())
    return re.split(r"\. Name the activation|; |\. Please ", text)[0][:200]


def _sized(config: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    return {name: size for name, size in sizes.items() if _has(config, name)}


def _has(config: Any, name: str) -> bool:
    with contextlib.suppress(Exception):  # fields that vary by layer raise
        return getattr(config, name, None) is not None
    return False


def main() -> None:
    """Write what a gate makes of every type."""
    tokenizer = make_tokenizer()
    lines = [f'transformers = "{transformers.__version__}"']
    for kind in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            found = describe(kind, tokenizer, Path(folder))
        lines += ["", f'[types."{kind}"]', f"gated = {json.dumps(found.gated)}", f"how = {json.dumps(found.how)}"]
        print(kind, *found)
    FOUND.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

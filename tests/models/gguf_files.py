"""GGUF files of Llama checkpoints, laid out as llama.cpp's converter lays them out, at any type that `gguf` writes.

Rows of the query and key projections are reordered, for llama.cpp turns neighbours where transformers turns halves.
"""

import functools
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from pytest_quantcheck.models import builtin

BLANK = "Ġ"
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
CHAT_TEMPLATE = "{% for message in messages %}{{ bos_token + message['content'] }}{% endfor %}"
FILE_TYPES = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}
NORMAL, CONTROL, UNUSED = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED


def write_gguf(
    checkpoint: Path,
    path: Path,
    kind: str,
    *,
    embedding: str | None = None,
    pre: str = "gpt-2",
    fill: int = 0,
    scaling: gguf.RopeScalingType | None = None,
) -> Path:
    """Write a plain Llama checkpoint with a byte-level tokenizer as a GGUF file.

    `kind`: type of the matrices, such as `Q4_1`; `embedding`: of the embedding and the output head, if another;
    `pre`: name of the pre-tokenizer; `fill`: tokens that only fill the vocabulary up, at its end; `scaling`: what
    the metadata say of the rotary embedding's. A tokenizer without merges is written as a sentencepiece one.
    """
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    writer = gguf.GGUFWriter(path, "llama")
    _write_shape(writer, model.config, kind)
    if scaling:
        writer.add_rope_scaling_type(scaling)
    _write_tokenizer(writer, AutoTokenizer.from_pretrained(checkpoint), pre, fill)
    for name, weight in _named(model):
        chosen = (embedding or kind) if name in {"token_embd.weight", "output.weight"} else kind
        chosen = chosen if weight.ndim > 1 else "F32"
        stored = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[chosen])
        writer.add_tensor(name, stored, raw_dtype=gguf.GGMLQuantizationType[chosen])
    _add_frequencies(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A weight, quantized and dequantized: what a file of this type holds of it, float32."""
    number = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.float().numpy(), number), number))


def _write_shape(writer, config, kind):
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name("A Llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES.get(kind, f"MOSTLY_{kind}")])
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head_dim)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tokenizer(writer, tokenizer, pre, fill):
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    filler = [f"[PAD{number}]" for number in range(len(tokens), len(tokens) + fill)]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    writer.add_tokenizer_model("gpt2" if merges else "llama")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + filler)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens] + [UNUSED] * fill)
    writer.add_token_scores([0.0] * (len(tokens) + fill))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _named(model):
    """The parameters by llama.cpp's names, (out, in) float32."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        for projection, n_heads in heads.items():
            if projection in name:
                weight = _neighbours(weight, n_heads)
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), weight


def _neighbours(weight, n_heads):
    """The rows of each head, so that the two that are turned together lie side by side."""
    halves = weight.reshape(n_heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _add_frequencies(writer, model):
    """By what each rotary frequency is divided, where the model stretches its context in the way of Llama 3."""
    rope = model.config.rope_parameters
    if rope["rope_type"] == "llama3":
        turned = model.model.rotary_emb.inv_freq.numpy()
        plain = 1 / rope["rope_theta"] ** (np.arange(len(turned)) / len(turned))
        writer.add_tensor("rope_freqs.weight", (plain / turned).astype(np.float32))


@functools.cache
def _byte_level_tokenizer():
    """Every word of the built-in model, alone and behind a blank, is one token; so are the pieces it is merged from."""
    words = [word for word in AutoTokenizer.from_pretrained(builtin.DIRECTORY).get_vocab() if word[0] != "<"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=10_000, special_tokens=[*SPECIAL.values()], show_progress=False)
    backend.train_from_iterator([text for word in sorted(words) for text in (word, f" {word}")], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", model_max_length=128, **SPECIAL)


def spell_builtin(folder: Path, *, chat: bool = False) -> Path:
    """Write the built-in model with a byte-level tokenizer that reads its prompts as the built-in tokenizer does.

    Its own splits at blanks and drops them, which no tokenizer in a GGUF file can. Each token has the embedding and
    the output weights of the word that it spells, of `<unk>` where it is a piece of one.
    """
    model = AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, dtype=torch.float32)
    tokenizer, words = _byte_level_tokenizer(), AutoTokenizer.from_pretrained(builtin.DIRECTORY)
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    spelled = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    rows = words.convert_tokens_to_ids([token.removeprefix(BLANK) or "<unk>" for token in spelled])
    embedding, head = (layer.weight[rows] for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    model.resize_token_embeddings(len(spelled), mean_resizing=False)
    model.get_input_embeddings().weight.data = embedding.detach().clone()
    model.get_output_embeddings().weight.data = head.detach().clone()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

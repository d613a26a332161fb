"""Tiny models with random weights, large enough that their neurons differ, and checkpoints of them."""

import copy
import functools

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.experts import run_experts_one_by_one
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.pretrained import auto_class
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.serving import configuration_differences

VOCABULARY = 96
SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = SHARED | {"intermediate_size": 128}
GQA = LLAMA | {"num_key_value_heads": 2}
OPT = SHARED | {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 128, "n_positions": 64}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}
QWEN_VISION = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}

CONFIGS = {
    "llama": ("LlamaConfig", GQA),
    "llama-tied": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", GQA | {"sliding_window": 4}),
    "qwen2": ("Qwen2Config", GQA),
    "qwen3": ("Qwen3Config", GQA | {"head_dim": 16}),
    "gemma": ("GemmaConfig", GQA | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", GQA | {"head_dim": 16, "final_logit_softcapping": 3.0, "sliding_window": 4}),
    "phi": ("PhiConfig", LLAMA),
    "phi3": ("Phi3Config", GQA),
    "gpt2": ("GPT2Config", GPT2),
    "gpt-neox": ("GPTNeoXConfig", LLAMA),
    "gpt-neox-serial": ("GPTNeoXConfig", LLAMA | {"use_parallel_residual": False}),
    "opt": ("OPTConfig", OPT),
    "gemma3": (
        "Gemma3Config",
        {
            "text_config": GQA | {"head_dim": 16, "sliding_window": 4},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 90,
            "boi_token_index": 91,
            "eoi_token_index": 92,
        },
    ),
    "granite": ("GraniteConfig", GQA | {"logits_scaling": 1.3}),
    "gemma3-text": ("Gemma3TextConfig", GQA | {"head_dim": 16, "sliding_window": 4}),
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        {
            "text_config": GQA | {"rope_parameters": MROPE},
            "vision_config": QWEN_VISION | {"fullatt_block_indexes": [1]},
        },
    ),
    "qwen3-vl": (
        "Qwen3VLConfig",
        {
            "text_config": GQA | {"head_dim": 16, "rope_parameters": MROPE},
            "vision_config": QWEN_VISION | {"deepstack_visual_indexes": [1]},
        },
    ),
    "mistral3": (
        "Mistral3Config",
        {"text_config": GQA | {"model_type": "mistral"}, "vision_config": VISION | {"model_type": "pixtral"}},
    ),
    "starcoder2": ("Starcoder2Config", GQA),
    "falcon": (
        "FalconConfig",
        SHARED | {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 128},
    ),
    "falcon-alibi": ("FalconConfig", SHARED | {"alibi": True, "ffn_hidden_size": 128}),
    "opt-post-norm": ("OPTConfig", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LLAMA4 = GQA | {"head_dim": 16, "intermediate_size": 48, "intermediate_size_mlp": 128, "interleave_moe_layer_step": 2}
LLAMA4 |= {"num_local_experts": 4, "num_experts_per_tok": 1}
MIXTURES = {
    "mixtral": ("MixtralConfig", GQA | {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeConfig", GQA | EXPERTS | {"head_dim": 16}),
    "half-mixture": (
        "Qwen2MoeConfig",
        GQA | EXPERTS | {"shared_expert_intermediate_size": 64, "decoder_sparse_step": 2},
    ),
    "olmoe": ("OlmoeConfig", GQA | {"intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2}),
    "deepseek-v3": (
        "DeepseekV3Config",
        LLAMA
        | {"moe_intermediate_size": 48, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
        | {"first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 32}
        | {"qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32},
    ),
    "gpt-oss": (
        "GptOssConfig",
        GQA | {"head_dim": 16, "intermediate_size": 48, "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "llama4": ("Llama4TextConfig", LLAMA4),
    "llama4-vision": (
        "Llama4Config",
        {
            "text_config": LLAMA4,
            "vision_config": VISION | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        },
    ),
}
"""Mixtures of experts; some have blocks without experts, or experts that every token passes."""

TRACED = {
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    "mpt": ("MptConfig", {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}),
    "recurrent-gemma": ("RecurrentGemmaConfig", LLAMA | {"attention_window_size": 8, "lru_width": 64}),
}
"""Layouts whose names are not known."""

REFUSED = {
    "bert": ("BertConfig", LLAMA),
    "mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 4}),
    "openai-gpt": ("OpenAIGPTConfig", {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4}),
    "hrm": ("HrmTextConfig", LLAMA),
}
"""Models that are no chain of blocks with an FFN each, in which later tokens depend on earlier ones."""


@functools.cache
def make(name):
    """A model of this architecture whose every parameter, norms and biases too, is random and matters."""
    kind, arguments = (CONFIGS | MIXTURES | TRACED | REFUSED)[name]
    config = getattr(transformers, kind)(**copy.deepcopy(arguments))
    model = auto_class(config).from_config(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.2 * noise if parameter.dim() > 1 else parameter.data + 0.1 * noise
    run_experts_one_by_one(model)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny():
    """Makes the model of a name; each is made once."""
    return make


@pytest.fixture(params=CONFIGS)
def model(request):
    """One model of every supported architecture."""
    return make(request.param)


@pytest.fixture(scope="session")
def batch_of():
    """Makes a left-padded batch of random prompts of these lengths."""

    def make_batch(*lengths):
        generator = torch.Generator().manual_seed(1)
        encoded = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
        return collate(encoded, range(len(lengths)), pad=0, device=torch.device("cpu"))

    return make_batch


def make_tokenizer():
    """Padding, start, end, and the words w3 to w95; every prompt begins with the start."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w3"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of every tiny model."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def save(tokenizer):
    """Writes a model with the tokenizer into a folder."""

    def write(model, folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(save, tmp_path_factory):
    """A Llama in float32 with tied embeddings, whose layers' sides are multiples of 64."""
    return save(make("llama-tied"), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def bf16_checkpoint(save, tmp_path_factory):
    """The same in bfloat16."""
    folder = tmp_path_factory.mktemp("bf16")
    model = AutoModelForCausalLM.from_pretrained(save(make("llama-tied"), folder), dtype=torch.bfloat16)
    return save(model, folder)


@pytest.fixture(scope="session")
def answer():
    """A loaded model's log-probabilities of the next token, (prompts, vocabulary) float32."""

    @torch.no_grad()
    def next_token(loaded, batch):
        return loaded.model(**batch.inputs()).logits[:, -1].float().log_softmax(-1)

    return next_token


@pytest.fixture(scope="session")
def asked():
    """Makes a prompt set of the tokenizer's words with these gold answers."""

    def make_prompts(*golds):
        texts = tuple(f"w{10 + number} w{20 + number} w{30 + number}" for number in range(len(golds)))
        rows = tuple(range(1, len(golds) + 1))
        return PromptSet("words", texts, golds, rows, source="here", template="raw")

    return make_prompts


@pytest.fixture(scope="session")
def held(tokenizer):
    """Makes a loaded model of a copy of a model in memory."""

    def hold(model, dtype=torch.float32):
        own = copy.deepcopy(model)
        own = own if own.dtype == dtype else own.to(dtype)  # Llama 4's vision tower has complex buffers
        return LoadedModel(
            model=own,
            tokenizer=tokenizer,
            bits="reference",
            dtype=str(dtype),
            format="none",
            device=torch.device("cpu"),
            devices="cpu",
            neurons=find_neurons(own),
            module_types={},
            quantized_share=None,
            outside_text={},
            quantization=None,
            content_hash=None,
            configuration={},
        )

    return hold


@pytest.fixture(scope="session")
def changed():
    """Names the weights of the second model that are not those of the first, bit for bit."""

    def compare(before, after):
        old, new = before.state_dict(), after.state_dict()
        assert old.keys() == new.keys()
        return [name for name, weight in new.items() if not torch.equal(weight, old[name])]

    return compare


def differences(reference, candidate):
    """The names of what both models' configurations state, and state differently."""
    return [one.field for one in configuration_differences(reference.configuration, candidate.configuration)]

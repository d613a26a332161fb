"""Mixtures of experts made of a dense model, as sparse upcycling does (arXiv 2212.05055)."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM


def upcycle(folder, place, *, experts=4, noise=0.0):
    """Save a Llama's Mixtral: each expert is the FFN, so that it computes the same, but for a share of noise.

    The router is random; a token goes to two experts, whose weights add up to 1.
    """
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same += ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_parameters", "max_position_embeddings")
    same += ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "hidden_act")
    kept = {name: getattr(dense.config, name) for name in same}
    config = MixtralConfig(**kept, num_local_experts=experts, num_experts_per_tok=2, sliding_window=None)
    mixture = MixtralForCausalLM._from_config(config, dtype=dense.dtype)
    generator = torch.Generator().manual_seed(0)
    mixture.load_state_dict(dense.state_dict(), strict=False)
    for old, new in zip(dense.model.layers, mixture.model.layers, strict=True):
        gate_up = torch.cat([old.mlp.gate_proj.weight, old.mlp.up_proj.weight])
        for weights, weight in (
            (new.mlp.experts.gate_up_proj, gate_up),
            (new.mlp.experts.down_proj, old.mlp.down_proj.weight),
        ):
            other = torch.randn(weights.shape, generator=generator) * weight.float().std() * noise
            weights.data = (weight.float() + other).to(dense.dtype)
        new.mlp.gate.weight.data = torch.randn(experts, config.hidden_size, generator=generator).to(dense.dtype)
    for part in (mixture, dense.generation_config, AutoTokenizer.from_pretrained(folder)):
        part.save_pretrained(place)
    return place

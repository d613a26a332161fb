"""Where a record that a test made by hand comes from: any run, of which a test replaces what it is about."""

from pytest_quantcheck.records import Provenance

ANY = Provenance(
    model="released/model",
    bits="reference",
    revision=None,
    content_hash=None,
    dtype="bf16",
    format="none",
    module_types={},
    quantized_share=None,
    outside_text={},
    quantization=None,
    gradient_path="float32",
    architecture="LlamaForCausalLM",
    n_layers=7,
    width=64,
    configuration={},
    encoding_hash="",
    prompt_set="boolq",
    prompt_hash="",
    template="raw:{prompt}",
    readout="token",
    layers=(0, 3, 6),
    redundancy_neurons=384,
    attribution="adaptive",
    seed=0,
    batch_size=16,
    shard=None,
    device="cpu",
    libraries={},
)

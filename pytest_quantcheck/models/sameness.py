"""Whether a candidate is the same model as its reference, in all that quantization must leave alone."""

from __future__ import annotations

from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.records import Provenance


def differences(reference: Provenance, loaded: LoadedModel) -> tuple[str, ...]:
    """What of a candidate is not the reference's: one sentence each, empty for the same model.

    Compared are the vocabulary, the chat template, the number of layers and the width of the hidden states.
    """
    found = []
    if loaded.vocabulary_hash != reference.vocabulary_hash:
        found.append(
            f"its vocabulary is another {_hashes(loaded.vocabulary_hash, reference.vocabulary_hash)}: tokens or their "
            "numbers differ; release it with the reference's tokenizer files"
        )
    if loaded.chat_template_hash != reference.chat_template_hash:
        found.append(
            f"its chat template is another {_hashes(loaded.chat_template_hash, reference.chat_template_hash)}: compare "
            "chat_template.jinja, or chat_template in tokenizer_config.json, with the reference's"
        )
    if loaded.n_layers != reference.n_layers:
        found.append(f"it has {loaded.n_layers} layers, the reference {reference.n_layers}")
    if loaded.width != reference.width:
        found.append(f"its hidden states are {loaded.width} wide, the reference's {reference.width}")
    return tuple(found)


def _hashes(candidate: str, reference: str) -> str:
    return f"(SHA-256 {candidate[:12]}…, the reference's {reference[:12]}…)"

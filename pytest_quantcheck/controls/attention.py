"""Which of its attention kernels a model runs."""

from __future__ import annotations

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.loaded import LoadedModel


def use_eager_attention(loaded: LoadedModel) -> str:
    """Let a loaded model attend by plain matrix products instead of a fused kernel; return what was done.

    Raises:
        NotApplicable: it does so already, or has nothing else.
    """
    before = _attention(loaded)
    if before == "eager":
        raise NotApplicable(f"{type(loaded.model).__name__} runs eager attention already: it has no other kernels here")
    loaded.model.set_attn_implementation("eager")
    if _attention(loaded) != "eager":
        raise NotApplicable(f"{type(loaded.model).__name__} cannot change its attention from {before} to eager")
    return f"eager attention instead of {before}"


def _attention(loaded: LoadedModel) -> str:
    return str(loaded.model.config._attn_implementation)  # noqa: SLF001 - transformers has no public question

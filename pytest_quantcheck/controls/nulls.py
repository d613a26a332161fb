"""Nulls: the reference under conditions that must not matter."""

from __future__ import annotations

from pytest_quantcheck.controls.catalogue import Site
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.loaded import LoadedModel


def other_batches(site: Site) -> tuple[Plan, str]:
    """Measure in batches of another size, with the prompts in another order."""
    plan = site.plan.rearranged()
    return plan, f"batches of {plan.batch_size} instead of {site.plan.batch_size} prompts, in another order"


def other_dtype(site: Site) -> str:
    """Leave the model as it was loaded: in another float format."""
    return f"loaded as {site.loaded.dtype}"


def eager_attention(site: Site) -> str:
    """Compute attention by plain matrix products instead of a fused kernel.

    Raises:
        NotApplicable: the model does so already, or has no other kernel.
    """
    before, model = _attention(site.loaded), type(site.loaded.model).__name__
    if before == "eager":
        raise NotApplicable(f"{model} runs eager attention already: there is no other kernel to compare with")
    site.loaded.model.set_attn_implementation("eager")
    if _attention(site.loaded) != "eager":
        raise NotApplicable(f"{model} cannot change its attention from {before} to eager")
    return f"eager attention instead of {before}"


def _attention(loaded: LoadedModel) -> str:
    return str(loaded.model.config._attn_implementation)  # noqa: SLF001 - transformers has no public name for it

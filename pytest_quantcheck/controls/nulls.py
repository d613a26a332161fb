"""How the loaded reference is made into a control: other conditions for a null, another model for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantcheck.controls.altering import alter
from pytest_quantcheck.controls.attention import use_eager_attention
from pytest_quantcheck.models.neurons import choose_layers
from pytest_quantcheck.records import REFERENCE

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan
    from pytest_quantcheck.models.loaded import LoadedModel
    from pytest_quantcheck.prompts import PromptSet


def bits_of(control: str, dtype: str) -> str:
    """What to load for a control, where `dtype` is the reference's: the reference, or it in another float format."""
    if control != "null-dtype":
        return REFERENCE
    return "bf16" if dtype == "fp32" else "fp32"


def treat(loaded: LoadedModel, control: str, plan: Plan, prompts: PromptSet) -> tuple[Plan, str]:
    """Make a control of a model that was loaded as `bits_of` says; return the plan to measure it by and what was done.

    Raises:
        NotApplicable: the control makes no sense for this model.
    """
    if control == "null-batches":
        other = plan.rearranged()
        return other, f"batches of {other.batch_size} instead of {plan.batch_size} prompts, in another order"
    if control == "null-dtype":
        return plan, f"loaded as {loaded.dtype}"
    if control == "null-kernels":
        return plan, use_eager_attention(loaded)
    layers = choose_layers(plan.layers, loaded.n_layers)
    return plan, alter(loaded, control, layers=layers, prompts=prompts, seed=plan.seed)

"""Turn a loaded reference into a control, in memory; load it again to get the reference back."""

from __future__ import annotations

import math
from pkgutil import resolve_name

import torch

from pytest_quantcheck.controls.catalogue import CONTROLS, Control, Site
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.neurons import choose_layers
from pytest_quantcheck.models.projections import refuse_packed
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import REFERENCE


def load_as(name: str, dtype: str) -> str:
    """Choose what to load for a control: the reference, or another float format.

    `dtype` is the reference's: `bf16`, `fp16` or `fp32`.
    """
    if not CONTROLS[name].other_dtype:
        return REFERENCE
    return "bf16" if dtype == "fp32" else "fp32"


@torch.no_grad()
def apply_control(
    loaded: LoadedModel, name: str, *, plan: Plan, prompts: PromptSet, severity: float | None = None
) -> tuple[Plan, str]:
    """Make a control of a model that was loaded as `load_as` says.

    The same arguments give the same weights, bit for bit. A call that raises before it alters a weight leaves the
    model as it was.

    Args:
        loaded: the reference, unquantized for a rewrite or a defect; its files are not touched.
        name: the name of a control.
        plan: how the reference is measured: rewrites alter all its layers, a defect of one layer the middle one; its
            seed chooses the order or the factors of a rewrite.
        prompts: the prompt set; `other-fine-tune` learns from it.
        severity: of a defect; the one in the catalogue if None.

    Returns:
        The plan to measure the control by, and what was done, in words without a full stop.

    Raises:
        NotApplicable: the control makes no sense for this model or these prompts.
        ModelError: the plan names a layer that the model does not have.
        ValueError: no such control, or a severity that it cannot have.
    """
    if name not in CONTROLS:
        raise ValueError(f"Expected one of {', '.join(CONTROLS)}, got {name!r}.")
    control = CONTROLS[name]
    layers = choose_layers(plan.layers, loaded.n_layers)
    site = Site(loaded, plan, layers, prompts, _chosen_severity(control, severity))
    if control.kind != "null":
        refuse_packed(loaded)
        if not layers:
            raise NotApplicable("no layer is measured, so no layer can be altered")
    done: str | tuple[Plan, str] = resolve_name(control.apply)(site)
    return (plan, done) if isinstance(done, str) else done


def _chosen_severity(control: Control, requested: float | None) -> float:
    if control.severity is None:
        if requested is not None:
            raise ValueError(f"{control.name} has no severity, got {requested:g}.")
        return 0.0
    severity = control.severity if requested is None else requested
    if not 0 < severity < math.inf:
        raise ValueError(f"Expected a positive number as the severity of {control.name}, got {severity:g}.")
    return severity

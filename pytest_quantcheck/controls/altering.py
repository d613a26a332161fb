"""A loaded model made into one of the controls, in memory. Its files are not touched; load it again to have it back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.defects import DEFECTS, Subject
from pytest_quantcheck.controls.rewrites import REWRITES
from pytest_quantcheck.errors import ModelError, NotApplicable
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.neurons import choose_layers
from pytest_quantcheck.models.projections import refuse_packed
from pytest_quantcheck.prompts import PromptSet

SEVERITIES: dict[str, float] = {name: defect.severity for name, defect in DEFECTS.items()}
"""How severe each defect is when nothing else is asked for."""

GRADES: dict[str, tuple[float, ...]] = {name: defect.grades for name, defect in DEFECTS.items()}
"""The severities of each defect that a study goes through, mildest first."""


@torch.no_grad()
def alter(
    loaded: LoadedModel,
    control: str,
    *,
    layers: Sequence[int],
    prompts: PromptSet,
    severity: float | None = None,
    seed: int = 0,
) -> str:
    """Alter a loaded model in memory as the control of that name says; return what was done, in words.

    The same arguments give the same weights, bit for bit.

    Args:
        loaded: the reference, unquantized; what is raised before anything was altered leaves it as it was.
        control: the name of a rewrite or a defect.
        layers: the layers that are measured: rewrites alter all of them, a defect of one layer the middle one.
        prompts: the prompt set; one defect learns from it.
        severity: of a defect; its own default if None. What it counts stands with each defect.
        seed: of a rewrite's order or factors.

    Raises:
        NotApplicable: the control makes no sense for this model or these prompts.
        ValueError: no such rewrite or defect, or a severity that it cannot have.
    """
    if control not in REWRITES | DEFECTS:
        raise ValueError(f"Expected one of {', '.join(REWRITES | DEFECTS)}, got {control!r}{_null(control)}.")
    refuse_packed(loaded)
    chosen = _existing(layers, loaded.n_layers)
    if control in REWRITES:
        if severity is not None:
            raise ValueError(f"{control} has no severity, got {severity:g}.")
        return REWRITES[control](loaded, chosen, seed)
    severity = SEVERITIES[control] if severity is None else severity
    if not 0 < severity < math.inf:
        raise ValueError(f"Expected a positive number as the severity of {control}, got {severity:g}.")
    return DEFECTS[control].damage(Subject(loaded, chosen, prompts), severity)


def _null(control: str) -> str:
    known = CONTROLS.get(control)
    return ": a null is the reference as it is, loaded or measured otherwise" if known else ""


def _existing(layers: Sequence[int], n_layers: int) -> tuple[int, ...]:
    try:
        chosen = choose_layers(layers, n_layers)
    except ModelError as error:
        raise NotApplicable(str(error)) from error
    if not chosen:
        raise NotApplicable("no layer is measured, and so none can be altered")
    return chosen

"""What a control is made from: the loaded reference, and how a run measures it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.prompts import PromptSet


@dataclass(frozen=True, eq=False)
class Site:
    """The argument of every function that makes a control.

    `layers`: the numbers of the measured layers, in order; a rewrite or a defect has at least one. `severity`: of a
    defect, above 0; 0 for other kinds.
    """

    loaded: LoadedModel
    plan: Plan
    layers: tuple[int, ...]
    prompts: PromptSet
    severity: float

    @property
    def layer(self) -> int:
        """The middle measured layer, for defects of one layer."""
        return self.layers[(len(self.layers) - 1) // 2]

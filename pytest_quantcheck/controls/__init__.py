"""Models made to test the gate: nulls, equivalent rewrites and defects."""

from pytest_quantcheck.controls.catalogue import CONTROLS, Control, Kind

__all__ = ["CONTROLS", "Control", "Kind"]

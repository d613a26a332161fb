"""Models made to find out whether the gate works: nulls, equivalent rewrites and defects."""

from pytest_quantcheck.controls.catalogue import CONTROLS, Control, Kind

__all__ = ["CONTROLS", "Control", "Kind"]

"""The table of controls is in order."""

from pkgutil import resolve_name

import pytest

from pytest_quantcheck.controls.catalogue import CONTROLS


def test_controls_are_in_the_order_of_their_kinds():
    """Nulls, then rewrites, then defects; each is one sentence under its own name."""
    kinds = [control.kind for control in CONTROLS.values()]
    assert kinds == sorted(kinds, key=["null", "rewrite", "defect"].index)
    assert all(name == control.name for name, control in CONTROLS.items())
    assert all(control.summary.count(".") == control.summary.endswith(".") for control in CONTROLS.values())


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_every_control_has_a_function(control):
    """Each row names one that there is, with a docstring."""
    assert resolve_name(control.apply).__doc__


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_defects_alone_have_grades(control):
    """The severity of the certificate is one of them."""
    assert (control.kind == "defect") == bool(control.grades)
    assert control.severity in (control.grades or [None])

"""The table of controls is in order."""

from pytest_quantcheck.controls.catalogue import CONTROLS


def test_controls_are_in_the_order_of_their_kinds():
    """Nulls, then rewrites, then defects; each is one sentence under its own name."""
    kinds = [control.kind for control in CONTROLS.values()]
    assert kinds == sorted(kinds, key=["null", "rewrite", "defect"].index)
    assert all(name == control.name for name, control in CONTROLS.items())
    assert all(control.summary.count(".") == control.summary.endswith(".") for control in CONTROLS.values())

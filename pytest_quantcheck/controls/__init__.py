"""Models made to test the gate: nulls, equivalent rewrites and defects."""

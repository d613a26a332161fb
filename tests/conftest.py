"""Tests that search for counterexamples search the same ones every time."""

from hypothesis import settings

# No deadline: on a busy machine the first call of a kernel is slow. No database: every run starts from the same state.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# `--hypothesis-profile=long`: other examples in every run, many more of them.
settings.register_profile("long", max_examples=5_000, deadline=None, database=None)

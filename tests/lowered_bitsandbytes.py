"""A pytest plugin that hides AVX-512 bf16 from bitsandbytes, which has no environment variable for it.

bitsandbytes asks its native library for it by name, and packs 4-bit weights for a kernel of its own where the answer is
yes. Here the answer is no in every process that pytest starts with `PYTEST_PLUGINS=tests.lowered_bitsandbytes`. Nothing
is imported for it: tests that look at what a run imports see the same as without it.
"""

import ctypes

_HIDDEN = "has_avx512bf16_cpu"
_attribute = ctypes.CDLL.__getattr__


def _without(library: ctypes.CDLL, name: str) -> object:
    return (lambda: 0) if name == _HIDDEN else _attribute(library, name)


ctypes.CDLL.__getattr__ = _without

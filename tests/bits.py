"""Records as nested tuples, to be compared to the last bit."""

import numpy as np


def bits_of(record):
    """Return a record as nested tuples; arrays as dtype, shape and bytes."""
    if isinstance(record, np.ndarray):
        return record.dtype.str, record.shape, record.tobytes()
    if isinstance(record, dict):
        return tuple((key, bits_of(value)) for key, value in record.items())
    if isinstance(record, tuple):
        return tuple(bits_of(value) for value in record)
    return bits_of(vars(record)) if hasattr(record, "__dict__") else record

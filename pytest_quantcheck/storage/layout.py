"""How a measurement lies in its two files: scalars in a typed document, arrays under flat names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..records import SCHEMA, Activations, Answers, Correlations, Measurement, Provenance, Saliency

Arrays = Mapping[str, NDArray[Any]]
Layout = Mapping[str, tuple[str, type[np.generic]]]
"""Each array's dimensions, by letter as in the records' docstrings, and its dtype."""

ANSWERS: Layout = {
    "index": ("n", np.int64),
    "token": ("n", np.int64),
    "confidence": ("n", np.float64),
    "correct": ("n", np.bool_),
    "support": ("n k", np.int32),
    "log_probs": ("n k", np.float32),
    "rest": ("n", np.float32),
}

CORRELATIONS: Layout = {"mean": ("d", np.float64), "comoment": ("d d", np.float32)}

ACTIVATIONS: Layout = {
    "minimum": ("g d", np.float32),
    "maximum": ("g d", np.float32),
    "correlated": ("c", np.int64),
    "sample": ("s", np.int64),
}

SALIENCY: Layout = {
    "index": ("m", np.int64),
    "target": ("m", np.int64),
    "salient": ("m d", np.bool_),
    "error": ("m", np.float32),
    "nodes": ("m", np.int32),
    "converged": ("m", np.bool_),
}


class LayerScalars(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one layer's `Activations` hold beside arrays: tokens seen in all and in each group."""

    tokens: int
    group_tokens: tuple[int, ...]
    rectified: bool


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `measurement.json`; `arrays` is the sha256 of the file of arrays, in hexadecimal."""

    schema: int
    arrays: str
    provenance: Provenance
    exact: bool
    activations: dict[int, LayerScalars]
    saliency: tuple[int, ...]
    texts: dict[int, str] = {}


def to_document(measurement: Measurement, arrays: str) -> Document:
    """Return all of a measurement that is no array; `arrays` is the sha256 of the file of those."""
    return Document(
        schema=SCHEMA,
        arrays=arrays,
        provenance=measurement.provenance,
        exact=measurement.answers.exact,
        activations={layer: _scalars(seen) for layer, seen in measurement.activations.items()},
        saliency=tuple(measurement.saliency),
        texts=measurement.texts,
    )


def to_arrays(measurement: Measurement) -> dict[str, NDArray[Any]]:
    """Return a measurement's arrays under flat names such as `activations/3/minimum`, each contiguous."""
    return {
        f"{prefix}/{name}": np.ascontiguousarray(getattr(record, name))
        for prefix, record, layout in _records(measurement)
        for name in layout
    }


def to_measurement(document: Document, arrays: Arrays) -> Measurement:
    """Return the measurement that lies in a document and its arrays.

    Raises:
        ValueError: an array is missing, or has another dtype or shape than the record needs.
    """
    return Measurement(
        provenance=document.provenance,
        answers=Answers(**_take(arrays, "answers", ANSWERS), exact=document.exact),
        activations={layer: _activations(arrays, layer, seen) for layer, seen in document.activations.items()},
        saliency={layer: Saliency(**_take(arrays, f"saliency/{layer}", SALIENCY)) for layer in document.saliency},
        texts=document.texts,
    )


def _records(measurement: Measurement) -> Iterator[tuple[str, object, Layout]]:
    yield "answers", measurement.answers, ANSWERS
    for layer, seen in measurement.activations.items():
        yield f"activations/{layer}", seen, ACTIVATIONS
        yield f"activations/{layer}/correlations", seen.correlations, CORRELATIONS
        for group, part in enumerate(seen.groups):
            yield f"activations/{layer}/groups/{group}", part, CORRELATIONS
    for layer, attributed in measurement.saliency.items():
        yield f"saliency/{layer}", attributed, SALIENCY


def _scalars(seen: Activations) -> LayerScalars:
    return LayerScalars(
        tokens=seen.correlations.count,
        group_tokens=tuple(part.count for part in seen.groups),
        rectified=seen.rectified,
    )


def _activations(arrays: Arrays, layer: int, scalars: LayerScalars) -> Activations:
    prefix = f"activations/{layer}"
    own = _take(arrays, prefix, ACTIVATIONS, g=len(scalars.group_tokens))
    c, s = len(own["correlated"]), len(own["sample"])
    whole = _take(arrays, f"{prefix}/correlations", CORRELATIONS, d=c)
    groups = [_take(arrays, f"{prefix}/groups/{i}", CORRELATIONS, d=s) for i in range(len(scalars.group_tokens))]
    return Activations(
        **own,
        correlations=Correlations(scalars.tokens, **whole),
        groups=tuple(Correlations(count, **part) for count, part in zip(scalars.group_tokens, groups, strict=True)),
        rectified=scalars.rectified,
    )


def _take(arrays: Arrays, prefix: str, layout: Layout, **sizes: int) -> dict[str, NDArray[Any]]:
    """Return the arrays under a prefix by name; a dimension not in `sizes` is what the first array says."""
    found = {}
    for name, (dimensions, dtype) in layout.items():
        array = arrays.get(f"{prefix}/{name}")
        if array is None:
            raise ValueError(f"expected an array {prefix}/{name}, found none")
        letters = dimensions.split()
        sizes = dict(zip(letters, array.shape, strict=False)) | sizes
        if array.dtype != dtype or array.shape != tuple(sizes.get(letter) for letter in letters):
            known = ", ".join(f"{letter}={sizes[letter]}" for letter in dict.fromkeys(letters) if letter in sizes)
            raise ValueError(
                f"expected {prefix}/{name} to be {np.dtype(dtype)} ({', '.join(letters)}) with {known}, got "
                f"{array.dtype} {array.shape}"
            )
        found[name] = array
    return found

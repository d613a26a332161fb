"""The layout of a measurement in its file: scalars in a typed document, arrays under flat names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.analyses.triangles import triangle_size
from pytest_quantcheck.records import (
    Activations,
    Answers,
    Correlations,
    Experts,
    Measurement,
    Provenance,
    Saliency,
    ScoredTokens,
)
from pytest_quantcheck.storage.correlations import exact_arrays, from_exact, from_rounded, rounded_arrays
from pytest_quantcheck.storage.narrowing import narrow, widen

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

SCORED: Layout = {
    "index": ("n", np.int64),
    "lengths": ("n", np.int64),
    "token": ("t", np.int32),
    "log_prob": ("t", np.float32),
    "top": ("t", np.int32),
    "support": ("t k", np.int32),
    "log_probs": ("t k", np.float16),
    "rest": ("t", np.float32),
}

CORRELATIONS: Layout = {"mean": ("d", np.float64), "comoment": ("d d", np.float32)}
EXACT: Layout = {"mean": ("d", np.float64), "comoment": ("pairs", np.float32)}
ROUNDED: Layout = {"mean": ("d", np.float64), "squares": ("d", np.float32), "r": ("pairs", np.int16)}
"""Correlations in memory, and in the file exact or rounded: see `correlations.py`."""

ACTIVATIONS: Layout = {
    "minimum": ("g d", np.float32),
    "maximum": ("g d", np.float32),
    "correlated": ("c", np.int64),
    "sample": ("s", np.int64),
}

ROUTES: Layout = {"chosen": ("t k", np.int16), "lengths": ("n", np.int64)}

SALIENCY: Layout = {
    "index": ("m", np.int64),
    "target": ("m", np.int64),
    "salient": ("m d", np.bool_),
    "error": ("m", np.float32),
    "nodes": ("m", np.int32),
    "converged": ("m", np.bool_),
}
PACKED: Layout = {**SALIENCY, "salient": ("m bytes", np.uint8)}
"""Saliency in the file: eight neurons share a byte, the first of them in its highest bit."""


class LayerScalars(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One FFN's `Activations` without the arrays: tokens in all and in each group."""

    tokens: int
    group_tokens: tuple[int, ...]
    rectified: bool


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything of a measurement that is not an array.

    `golds`, `available` and `texts` are as in `Measurement`.
    """

    schema: int
    arrays: str
    """SHA-256 of the arrays in the file, in hexadecimal."""
    arrays_bytes: int
    """Size of the arrays in the file."""
    rounded: bool
    """Whether correlations are rounded, as in a baseline."""
    provenance: Provenance
    exact: bool
    """As in `Answers`."""
    activations: dict[int, LayerScalars]
    experts: dict[int, tuple[LayerScalars, ...]]
    saliency: dict[int, int]
    """Number of neurons of each layer attributed."""
    golds: tuple[str, ...]
    available: int
    texts: dict[int, str] = {}
    scored: bool
    """Whether there are scored tokens."""


def scalars(measurement: Measurement) -> dict[str, Any]:
    """List the fields of a document that describe the measurement."""
    return {
        "provenance": measurement.provenance,
        "exact": measurement.answers.exact,
        "activations": {layer: _layer_scalars(seen) for layer, seen in measurement.activations.items()},
        "experts": {
            layer: tuple(_layer_scalars(one) for one in experts.neurons)
            for layer, experts in measurement.experts.items()
        },
        "saliency": {layer: saliency.salient.shape[-1] for layer, saliency in measurement.saliency.items()},
        "golds": measurement.golds,
        "available": measurement.available,
        "texts": measurement.texts,
        "scored": measurement.scored is not None,
    }


def to_arrays(measurement: Measurement, *, rounded: bool) -> dict[str, NDArray[Any]]:
    """Lay out a measurement's arrays as the file has them.

    Names are flat, such as `activations/3/minimum`. All come back bit for bit, unless correlations are `rounded`.

    Raises:
        ValueError: NaN, or an array of another dtype or shape than the record needs.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for prefix, record, layout, sizes in _records(measurement):
        fields = {name: getattr(record, name) for name in layout}
        _check_arrays(prefix, fields, layout, sizes)
        _check_numbers(prefix, fields)
        if isinstance(record, Correlations):
            fields = rounded_arrays(record) if rounded else exact_arrays(record)
        elif isinstance(record, Saliency):
            fields["salient"] = np.packbits(fields["salient"], axis=1)
        arrays |= {f"{prefix}/{name}": np.ascontiguousarray(narrow(array)) for name, array in fields.items()}
    return arrays


def to_measurement(document: Document, arrays: Arrays) -> Measurement:
    """Make the measurement that a document and its arrays describe.

    Raises:
        ValueError: an array is missing, or has another dtype or shape than the record needs.
    """
    return Measurement(
        provenance=document.provenance,
        answers=Answers(**_take(arrays, "answers", ANSWERS), exact=document.exact),
        activations={
            layer: _activations(arrays, f"activations/{layer}", seen, rounded=document.rounded)
            for layer, seen in document.activations.items()
        },
        experts={
            layer: _experts(arrays, f"experts/{layer}", seen, rounded=document.rounded)
            for layer, seen in document.experts.items()
        },
        saliency={layer: _saliency(arrays, layer, neurons) for layer, neurons in document.saliency.items()},
        golds=document.golds,
        available=document.available,
        texts=document.texts,
        scored=ScoredTokens(**_take(arrays, "scored", SCORED)) if document.scored else None,
    )


def _records(measurement: Measurement) -> Iterator[tuple[str, object, Layout, dict[str, int]]]:
    """Yield each record with arrays: the prefix of their names, the record, its layout and the sizes it must have."""
    yield "answers", measurement.answers, ANSWERS, {}
    if measurement.scored is not None:
        yield "scored", measurement.scored, SCORED, {}
    for layer, seen in measurement.activations.items():
        yield from _ffn_records(f"activations/{layer}", seen)
    for layer, mixture in measurement.experts.items():
        yield f"experts/{layer}", mixture, ROUTES, {}
        for expert, seen in enumerate(mixture.neurons):
            yield from _ffn_records(f"experts/{layer}/{expert}", seen)
    for layer, attributed in measurement.saliency.items():
        yield f"saliency/{layer}", attributed, SALIENCY, {}


def _ffn_records(prefix: str, seen: Activations) -> Iterator[tuple[str, object, Layout, dict[str, int]]]:
    yield prefix, seen, ACTIVATIONS, {"g": len(seen.groups)}
    yield f"{prefix}/correlations", seen.correlations, CORRELATIONS, {"d": len(seen.correlated)}
    for group, part in enumerate(seen.groups):
        yield f"{prefix}/groups/{group}", part, CORRELATIONS, {"d": len(seen.sample)}


def _layer_scalars(seen: Activations) -> LayerScalars:
    return LayerScalars(
        tokens=seen.correlations.count,
        group_tokens=tuple(part.count for part in seen.groups),
        rectified=seen.rectified,
    )


def _experts(arrays: Arrays, prefix: str, scalars_of_each: tuple[LayerScalars, ...], *, rounded: bool) -> Experts:
    return Experts(
        **_take(arrays, prefix, ROUTES),
        neurons=tuple(
            _activations(arrays, f"{prefix}/{expert}", seen, rounded=rounded)
            for expert, seen in enumerate(scalars_of_each)
        ),
    )


def _activations(arrays: Arrays, prefix: str, layer_scalars: LayerScalars, *, rounded: bool) -> Activations:
    own = _take(arrays, prefix, ACTIVATIONS, g=len(layer_scalars.group_tokens))
    correlations = _rounded_correlations if rounded else _exact_correlations
    c, s = len(own["correlated"]), len(own["sample"])
    return Activations(
        **own,
        correlations=correlations(arrays, f"{prefix}/correlations", layer_scalars.tokens, c),
        groups=tuple(
            correlations(arrays, f"{prefix}/groups/{group}", count, s)
            for group, count in enumerate(layer_scalars.group_tokens)
        ),
        rectified=layer_scalars.rectified,
    )


def _exact_correlations(arrays: Arrays, prefix: str, count: int, width: int) -> Correlations:
    return from_exact(count, **_take(arrays, prefix, EXACT, d=width, pairs=triangle_size(width)))


def _rounded_correlations(arrays: Arrays, prefix: str, count: int, width: int) -> Correlations:
    return from_rounded(count, **_take(arrays, prefix, ROUNDED, d=width, pairs=triangle_size(width - 1)))


def _saliency(arrays: Arrays, layer: int, neurons: int) -> Saliency:
    fields = _take(arrays, f"saliency/{layer}", PACKED, bytes=-(-neurons // 8))
    fields["salient"] = np.unpackbits(fields["salient"], axis=1, count=neurons).view(np.bool_)
    return Saliency(**fields)


def _take(arrays: Arrays, prefix: str, layout: Layout, **sizes: int) -> dict[str, NDArray[Any]]:
    """Take the arrays under a prefix by name, in their layout's dtype."""
    fields = {}
    for name, (dimensions, dtype) in layout.items():
        array = arrays.get(f"{prefix}/{name}")
        if array is None:
            raise ValueError(f"expected an array {prefix}/{name}, found none")
        fields[name] = widen(array, dtype, len(dimensions.split()))
    _check_arrays(prefix, fields, layout, sizes)
    return fields


def _check_arrays(prefix: str, arrays: Arrays, layout: Layout, sizes: Mapping[str, int]) -> None:
    """Refuse arrays of another dtype or shape; the first array sets a dimension that is not in `sizes`."""
    for name, (dimensions, dtype) in layout.items():
        array, letters = arrays[name], dimensions.split()
        sizes = dict(zip(letters, array.shape, strict=False)) | dict(sizes)
        if array.dtype != dtype or array.shape != tuple(sizes.get(letter) for letter in letters):
            lengths = ", ".join(f"{letter}={sizes[letter]}" for letter in dict.fromkeys(letters) if letter in sizes)
            raise ValueError(
                f"expected {prefix}/{name} to be {np.dtype(dtype)} ({', '.join(letters)}) with {lengths}, got "
                f"{array.dtype} {array.shape}"
            )


def _check_numbers(prefix: str, arrays: Arrays) -> None:
    for name, array in arrays.items():
        bad = np.count_nonzero(np.isnan(array)) if array.dtype.kind == "f" else 0
        if bad:
            raise ValueError(f"expected numbers, got NaN in {bad} of {array.size} in {prefix}/{name}")

"""Results of a run for machines: `report.json`, `certificate.json`, and their JSON Schemas."""

import inspect
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_quantcheck.controls.certificate import Certificate
from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.reporting.report import Report

SCHEMAS: Mapping[str, tuple[type[msgspec.Struct], str]] = {
    "report": (Report, "pytest-quantcheck report"),
    "certificate": (Certificate, "pytest-quantcheck certificate"),
}
"""Record and title of each file; `NAME.schema.json` beside this module is its schema."""


def encode_report(report: Report) -> bytes:
    """Encode the report as UTF-8 JSON: the same bytes for the same records.

    The order of mappings makes no difference.

    Raises:
        StorageError: a number is not finite, which JSON cannot store; names its place.
    """
    return _encode(report, "report")


def encode_certificate(certificate: Certificate) -> bytes:
    """Encode the certificate as UTF-8 JSON, as `encode_report` does."""
    return _encode(certificate, "certificate")


def schema_text(name: str = "report") -> str:
    """Write the JSON Schema of a `report` or a `certificate`."""
    record, title = SCHEMAS[name]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    schema = msgspec.json.schema(record)
    for definition in schema["$defs"].values():
        definition["description"] = inspect.cleandoc(definition["description"])
    return json.dumps({**head, **schema}, indent=2, sort_keys=True) + "\n"


def _encode(record: msgspec.Struct, place: str) -> bytes:
    plain = msgspec.to_builtins(record, str_keys=True, enc_hook=_builtin, order="deterministic")
    return msgspec.json.format(msgspec.json.encode(_storable(plain, place)), indent=2) + b"\n"


def _builtin(value: Any) -> float | str:
    return float(value) if isinstance(value, float) else os.fspath(value)  # NumPy's floats; paths in settings


def _storable(value: Any, place: str) -> Any:
    """Make a value that JSON can store; bytes of file names that are not UTF-8 become escapes."""
    if isinstance(value, dict):
        return {_storable(key, place): _storable(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item, f"{place}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise StorageError(f"{place}: expected a finite number, got {value}; no report is written, the verdicts stand")
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

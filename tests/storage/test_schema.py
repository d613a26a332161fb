"""The file format has a number, and no change to it goes without a new one."""

import hashlib
import json

import msgspec

from pytest_quantcheck.records import SCHEMA
from pytest_quantcheck.storage.layout import ACTIVATIONS, ANSWERS, ROUTES, SALIENCY, SCORED, Document


def test_another_layout_has_another_number():
    """A stored measurement of this number must be readable: who changes what is stored raises `SCHEMA`.

    The hash is of the document's JSON schema, descriptions left out, and of the arrays' names and types.
    """
    schema = json.dumps(plain(msgspec.json.schema(Document)), sort_keys=True)
    layouts = (ANSWERS, SCORED, ACTIVATIONS, ROUTES, SALIENCY)
    arrays = repr([sorted((name, str(kind)) for name, kind in part.items()) for part in layouts])
    found = hashlib.sha256((schema + arrays).encode()).hexdigest()[:16]
    assert (SCHEMA, found) == (9, "e1e6ad548b3e4ffb")


def plain(schema):
    """The schema without what is there for readers."""
    if isinstance(schema, dict):
        return {name: plain(value) for name, value in schema.items() if name != "description"}
    return [plain(value) for value in schema] if isinstance(schema, list) else schema

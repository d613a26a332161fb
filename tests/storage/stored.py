"""The file of a measurement taken apart and put together again, by an independent reading of its format."""

import hashlib
import json

import safetensors.numpy

from pytest_quantcheck.storage.measurement_files import FILE


def read(directory):
    """Return the document and the arrays of a stored measurement."""
    data = (directory / FILE).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["measurement"]), safetensors.numpy.load(data)


def write(directory, document, arrays):
    """Write a document and arrays with the hashes that vouch for them, if the document has any."""
    plain = safetensors.numpy.save(arrays)
    start = 8 + int.from_bytes(plain[:8], "little")
    if "arrays" in document:
        digest = hashlib.sha256(plain[start:]).hexdigest()
        document = document | {"arrays": digest, "arrays_bytes": len(plain) - start}
    write_text(directory, text(document), json.loads(plain[8:start]), plain[start:])


def write_text(directory, document, table=None, data=b""):
    """Write any text in place of a document, sealed as a header is."""
    header = text({"__metadata__": {"sha256": "", "measurement": document}, **(table or {})}).encode()
    header += b" " * (-(len(header) + 64) % 8)
    length = (len(header) + 64).to_bytes(8, "little")
    digest = hashlib.sha256(length + header).hexdigest().encode()
    sealed = header.replace(b'"sha256":""', b'"sha256":"%s"' % digest, 1)
    (directory / FILE).write_bytes(length + sealed + data)


def text(values):
    """Return values as they are written."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))

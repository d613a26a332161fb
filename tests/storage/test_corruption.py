"""Whatever happened to a stored measurement is one error that names the file and says what to do."""

import json

import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline, save_measurement

DOCUMENT, ARRAYS = "measurement.json", "arrays.safetensors"
NEXT_STEP = ("measure again", "the release that wrote it", "check the path", "check its permissions")


@pytest.fixture(params=[save_measurement, save_baseline])
def saved(request, measurement, tmp_path):
    """A directory with a measurement, or with a baseline."""
    request.param(measurement, tmp_path / "saved")
    return tmp_path / "saved"


def refuses(load, directory, name):
    """Whether loading says which file is wrong, and what to do."""
    with pytest.raises(StorageError) as caught:
        load(directory)
    message = str(caught.value)
    return str(directory / name) in message and any(step in message for step in NEXT_STEP)


def with_flipped(data, position, bits):
    """Return data with some bits of one byte flipped."""
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


def test_any_changed_byte_of_the_document_is_seen(saved):
    """Even one that leaves valid JSON of the same values, as a space in place of a line's end."""
    data = (saved / DOCUMENT).read_bytes()
    for position in range(len(data)):
        (saved / DOCUMENT).write_bytes(with_flipped(data, position, 1))
        assert refuses(load_provenance, saved, DOCUMENT), position
    (saved / DOCUMENT).write_bytes(data.replace(b"\n", b" "))
    assert refuses(load_measurement, saved, DOCUMENT)


def test_changed_bytes_of_the_arrays_are_seen(saved):
    """Header and values alike."""
    data = (saved / ARRAYS).read_bytes()
    for position in {*range(0, len(data), 97), len(data) - 1}:
        (saved / ARRAYS).write_bytes(with_flipped(data, position, 0x80))
        assert refuses(load_measurement, saved, ARRAYS), position


@pytest.mark.parametrize("name", [DOCUMENT, ARRAYS])
@pytest.mark.parametrize("load", [load_measurement, load_provenance])
def test_files_cut_short_or_gone_are_named(saved, name, load):
    """Where only the provenance is wanted, too."""
    data = (saved / name).read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        (saved / name).write_bytes(data[:length])
        assert refuses(load, saved, name)
    (saved / name).unlink()
    assert refuses(load, saved, name)


@pytest.mark.parametrize("name", [DOCUMENT, ARRAYS])
def test_file_of_another_measurement_is_seen(saved, newer, tmp_path, name):
    """Two whole measurements whose files were mixed up: the arrays are not those of the document."""
    save_measurement(newer, tmp_path / "other")
    (tmp_path / "other" / name).replace(saved / name)
    assert refuses(load_measurement, saved, ARRAYS)


@pytest.mark.parametrize("load", [load_measurement, load_provenance])
def test_provenance_changed_by_hand_is_seen(saved, load):
    """Well-formed, well-typed and false: a model's name that was not measured."""
    document = json.loads((saved / DOCUMENT).read_text())
    document["provenance"]["model"] = "another/model"
    (saved / DOCUMENT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    assert refuses(load, saved, DOCUMENT)


def test_own_hash_that_is_another_is_seen(saved):
    """The hash is one of the things that can be wrong."""
    document = json.loads((saved / DOCUMENT).read_text())
    document["sha256"] = "0" * 64
    (saved / DOCUMENT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    assert refuses(load_provenance, saved, DOCUMENT)


def test_number_that_json_cannot_hold_is_malformed(saved):
    """A number too long to be read back is refused as any other malformed document."""
    text = (saved / DOCUMENT).read_text()
    for number in ("1" * 400, "1e999"):
        (saved / DOCUMENT).write_text(text.replace('"threshold": 6.5', f'"threshold": {number}'))
        assert refuses(load_provenance, saved, DOCUMENT)


def test_provenance_is_read_from_the_document_alone(saved, measurement):
    """Arrays of the right size are not opened: a changed byte there is for `load_measurement` to find."""
    data = (saved / ARRAYS).read_bytes()
    (saved / ARRAYS).write_bytes(with_flipped(data, len(data) // 2, 1))
    assert load_provenance(saved) == measurement.provenance

"""Whatever happened to a stored measurement is one error that names the file and says what to do."""

import dataclasses
from contextlib import contextmanager

import msgspec
import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline, save_measurement
from pytest_quantcheck.storage.measurement_files import FILE
from tests.storage.stored import read, text, write_text

pytestmark = pytest.mark.ci

NEXT_STEP = ("measure again", "the release that wrote it", "check the path", "check its permissions")


@pytest.fixture(params=[save_measurement, save_baseline])
def saved(request, measurement, tmp_path):
    """A directory with a measurement, or with a baseline."""
    request.param(measurement, tmp_path / "saved")
    return tmp_path / "saved"


def refuses(load, directory):
    """Whether loading names the file, and says what to do."""
    with pytest.raises(StorageError) as caught:
        load(directory)
    message = str(caught.value)
    return str(directory / FILE) in message and any(step in message for step in NEXT_STEP)


@contextmanager
def flipped(path, position, bits):
    """Flip some bits of one byte of a file, in place, and flip them back."""
    for turn in range(2):
        with path.open("r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ bits]))
        if not turn:
            yield


def head(data):
    """Return where the header of a file ends."""
    return 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize(("bits", "step"), [(1, 1), (0x20, 5), (0x80, 7)])
def test_any_changed_byte_of_the_head_is_seen(saved, bits, step):
    """Length, hash, document, table and padding, even where the JSON has the same values."""
    data = (saved / FILE).read_bytes()
    for position in {*range(120), *range(120, head(data), step), *range(head(data) - 20, head(data))}:
        with flipped(saved / FILE, position, bits):
            assert refuses(load_provenance, saved), position
    assert (saved / FILE).read_bytes() == data


def test_other_white_space_in_the_padding_is_seen(measurement, tmp_path):
    """The same JSON in other bytes is not what was saved; of two lengths of a name one at least needs padding."""
    padded = 0
    for name in ("m", "mm"):
        provenance = msgspec.structs.replace(measurement.provenance, model=name)
        save_measurement(dataclasses.replace(measurement, provenance=provenance), tmp_path)
        data = (tmp_path / FILE).read_bytes()
        table = data.rindex(b"}", 0, head(data)) + 1
        if table < head(data):
            (tmp_path / FILE).write_bytes(data[:table] + b"\n" + data[table + 1 :])
            assert refuses(load_measurement, tmp_path)
            padded += 1
    assert padded


def test_changed_bytes_of_the_arrays_are_seen(saved):
    """Values of every array."""
    data = (saved / FILE).read_bytes()
    for position in {*range(head(data), len(data), 97), len(data) - 1}:
        with flipped(saved / FILE, position, 0x80):
            assert refuses(load_measurement, saved), position


@pytest.mark.parametrize("load", [load_measurement, load_provenance])
def test_file_cut_short_too_long_or_gone_is_named(saved, load):
    """Where only the provenance is wanted, too."""
    data = (saved / FILE).read_bytes()
    for length in (0, 1, head(data) - 1, head(data), len(data) // 2, len(data) - 1):
        (saved / FILE).write_bytes(data[:length])
        assert refuses(load, saved), length
    (saved / FILE).write_bytes(data + b"x")
    assert refuses(load, saved)
    (saved / FILE).unlink()
    assert refuses(load, saved)


def test_arrays_of_another_measurement_are_seen(saved, newer, tmp_path):
    """Two whole measurements whose parts were mixed up: the arrays are not those of the document."""
    save_measurement(newer, tmp_path / "other")
    data, other = ((place / FILE).read_bytes() for place in (saved, tmp_path / "other"))
    (saved / FILE).write_bytes(data[: head(data)] + other[head(other) :])
    assert refuses(load_measurement, saved)


@pytest.mark.parametrize("load", [load_measurement, load_provenance])
def test_provenance_changed_by_hand_is_seen(saved, load):
    """Well-formed, well-typed, as long as before, and false: a model's name that was not measured."""
    data = (saved / FILE).read_bytes()
    assert b"released/model" in data
    (saved / FILE).write_bytes(data.replace(b"released/model", b"released/Model"))
    assert refuses(load, saved)


@pytest.mark.parametrize("number", ["1e9", "9.9", "0x1"])
def test_number_changed_by_hand_is_seen(saved, number):
    """Whether JSON can hold it or not."""
    data = (saved / FILE).read_bytes()
    assert b'"threshold\\":6.5' in data
    (saved / FILE).write_bytes(data.replace(b'"threshold\\":6.5', b'"threshold\\":' + number.encode()))
    assert refuses(load_provenance, saved)


def test_number_that_json_cannot_hold_is_malformed(saved):
    """A number too long to be read back is refused as any other malformed document."""
    document = text(read(saved)[0])
    for number in ("1" * 400, "1e999"):
        write_text(saved, document.replace('"threshold":6.5', f'"threshold":{number}'))
        assert refuses(load_provenance, saved)


def test_provenance_is_read_from_the_header_alone(saved, measurement):
    """Arrays of the right size are not read: a changed byte there is for `load_measurement` to find."""
    with flipped(saved / FILE, (saved / FILE).stat().st_size - 1, 1):
        assert load_provenance(saved) == measurement.provenance
        assert refuses(load_measurement, saved)

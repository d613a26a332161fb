"""Measurements come back as they were saved, and nothing else is taken for one."""

import dataclasses
import hashlib
import json

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import load_measurement, save_measurement

DOCUMENT, ARRAYS = "measurement.json", "arrays.safetensors"


@pytest.fixture
def saved(measurement, tmp_path):
    """A directory with a measurement in it."""
    save_measurement(measurement, tmp_path / "saved")
    return tmp_path / "saved"


def refusal(directory):
    """Return what loading says."""
    with pytest.raises(StorageError) as caught:
        load_measurement(directory)
    return str(caught.value)


def written(document):
    """Return a document as it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def edit(directory, change):
    """Change the document's content in place, with a hash that vouches for it."""
    document = json.loads((directory / DOCUMENT).read_text())
    change(document)
    document["sha256"] = hashlib.sha256(written(document | {"sha256": ""})).hexdigest()
    (directory / DOCUMENT).write_bytes(written(document))


def replace_arrays(directory, data):
    """Put other arrays there, with a document that vouches for them."""
    (directory / ARRAYS).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit(directory, lambda document: document.update(arrays=digest, arrays_bytes=len(data)))


def edit_arrays(directory, change):
    """Change the arrays in place, and vouch for them."""
    arrays = safetensors.numpy.load_file(directory / ARRAYS)
    change(arrays)
    replace_arrays(directory, safetensors.numpy.save(arrays))


def with_answers(measurement, **changes):
    """Return a measurement with other answers."""
    return dataclasses.replace(measurement, answers=dataclasses.replace(measurement.answers, **changes))


def test_measurement_comes_back_bit_for_bit(measurement, same, tmp_path):
    """Scalars and arrays are what was saved, infinities of both signs included."""
    assert np.isneginf(measurement.answers.log_probs).any()
    assert np.isposinf(measurement.activations[3].minimum).any()
    save_measurement(measurement, tmp_path / "deep" / "er")
    assert same(measurement, load_measurement(tmp_path / "deep" / "er"))


def test_loaded_arrays_can_be_written_to(saved):
    """What is loaded can go to torch, which warns of arrays that are read-only."""
    assert load_measurement(saved).activations[0].correlations.comoment.flags.writeable


def test_array_is_stored_by_value_whatever_its_strides(measurement, same, tmp_path):
    """A transposed view is stored as it reads, not as its memory lies."""
    support = np.asfortranarray(measurement.answers.support)
    assert not support.flags.c_contiguous
    save_measurement(with_answers(measurement, support=support), tmp_path / "saved")
    assert same(measurement, load_measurement(tmp_path / "saved"))


def test_same_measurement_gives_the_same_bytes(measurement, saved, tmp_path):
    """Saving again what did not change changes no file: a committed baseline shows no difference."""
    save_measurement(load_measurement(saved), tmp_path / "again")
    for name in (DOCUMENT, ARRAYS):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_directory_holds_the_two_files(saved):
    """A document that people can read lies beside the arrays under flat names; nothing else is left."""
    assert sorted(path.name for path in saved.parent.rglob("*")) == sorted([DOCUMENT, ARRAYS, "saved"])
    assert json.loads((saved / DOCUMENT).read_text())["provenance"]["bits"] == "nf4"
    names = safetensors.numpy.load_file(saved / ARRAYS).keys()
    assert {"answers/log_probs", "activations/3/minimum", "activations/14/groups/15/mean", "saliency/3/salient"} < names


def test_measurement_without_saliency_is_kept(measurement, same, tmp_path):
    """Attribution switched off is a measurement all the same."""
    without = dataclasses.replace(measurement, saliency={})
    save_measurement(without, tmp_path / "saved")
    assert same(without, load_measurement(tmp_path / "saved"))


def test_newer_measurement_takes_the_place_of_the_older(newer, saved, same):
    """Saving where a measurement is replaces both files."""
    save_measurement(newer, saved)
    assert same(newer, load_measurement(saved))


@pytest.mark.parametrize("field", ["confidence", "log_probs", "rest"])
def test_nan_is_refused(measurement, newer, saved, same, field):
    """NaN is never stored: the array is named, and the older measurement stays."""
    values = getattr(newer.answers, field).copy()
    values.flat[2] = np.nan
    with pytest.raises(StorageError, match=f"NaN in 1 of {values.size} in answers/{field}"):
        save_measurement(with_answers(newer, **{field: values}), saved)
    assert same(measurement, load_measurement(saved))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), (1, 2), np.dtype("float32")])
def test_provenance_that_json_would_change_is_refused(measurement, tmp_path, value):
    """What would come back as null or as a list, or not at all, is refused when it is saved."""
    provenance = msgspec.structs.replace(measurement.provenance, quantization={"value": value})
    with pytest.raises(StorageError, match="provenance"):
        save_measurement(dataclasses.replace(measurement, provenance=provenance), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_record_of_wrong_shape_is_refused(measurement, tmp_path):
    """What could not be loaded is not saved."""
    with pytest.raises(StorageError, match=r"answers/token to be int64 \(n\) with n=9, got int64 \(8,\)"):
        save_measurement(with_answers(measurement, token=measurement.answers.token[:8]), tmp_path / "saved")


def test_directory_with_other_files_is_refused(measurement, tmp_path):
    """A folder of the user's own is not replaced: the file that would be lost is named and kept."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        save_measurement(measurement, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", [DOCUMENT, ARRAYS])
def test_missing_file_is_named(saved, name):
    """A measurement without one of its files does not exist, which is not to be malformed."""
    (saved / name).unlink()
    assert f"{saved / name} does not exist" in refusal(saved)


def test_missing_directory_is_named(tmp_path):
    """No directory at all, or a file in its place."""
    assert "nowhere" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "does not exist" in refusal(tmp_path / "file")


def test_unreadable_file_is_named(saved):
    """An error of the system is passed on with the file."""
    (saved / ARRAYS).unlink()
    (saved / ARRAYS).mkdir()
    assert f"cannot read {saved / ARRAYS}: Is a directory" in refusal(saved)


def test_truncated_document_is_malformed(saved):
    """A document cut anywhere is malformed, and the text says where it lies and what to do."""
    data = (saved / DOCUMENT).read_bytes().rstrip()
    for length in range(0, len(data), 37):
        (saved / DOCUMENT).write_bytes(data[:length])
        message = refusal(saved)
        assert f"{saved / DOCUMENT} is malformed" in message
        assert "measure again" in message


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe{}", b'{"schema": 2, "arrays": "\xff"}', b"[" * 100_000, b"[]", b"{}", b'{"schema": "1"}', b"null"],
    ids=["binary", "not UTF-8", "deep", "list", "empty", "schema a string", "null"],
)
def test_other_documents_are_malformed(saved, data):
    """What is no JSON, or JSON of something else, is malformed."""
    (saved / DOCUMENT).write_bytes(data)
    assert f"{saved / DOCUMENT} is malformed" in refusal(saved)


def test_field_of_another_type_is_named(saved):
    """A wrong value is named by its path in the document."""
    edit(saved, lambda document: document["provenance"].update(seed="seven"))
    assert "`$.provenance.seed`" in refusal(saved)


def test_other_schema_is_named_with_ours(saved):
    """A measurement of another release is not malformed: both schemas are named, whatever else changed."""
    edit(saved, lambda document: document.clear() or document.update(schema=3, unheard_of=True))
    message = refusal(saved)
    assert "has schema 3, and this release reads schema 2" in message
    assert "malformed" not in message


def test_flipped_bit_is_seen(saved):
    """Any changed byte of the arrays is found by their hash."""
    data = (saved / ARRAYS).read_bytes()
    for position in range(0, len(data), len(data) // 9):
        (saved / ARRAYS).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert f"{saved / ARRAYS} is not what was saved" in refusal(saved)


def test_truncated_arrays_are_seen(saved):
    """Arrays that were cut short are refused, with their length."""
    (saved / ARRAYS).write_bytes((saved / ARRAYS).read_bytes()[:1000])
    assert "of 1000 bytes" in refusal(saved)


@pytest.mark.parametrize("data", [b"", b"not safetensors", b"\xff" * 64])
def test_arrays_that_are_no_safetensors_are_malformed(saved, data):
    """A right hash does not make a file of arrays."""
    replace_arrays(saved, data)
    assert f"{saved / ARRAYS} is malformed" in refusal(saved)


def test_missing_array_is_named(saved):
    """An array that the document promises must be there."""
    edit_arrays(saved, lambda arrays: arrays.pop("activations/3/groups/2/comoment"))
    assert "expected an array activations/3/groups/2/comoment, found none" in refusal(saved)


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("answers/log_probs", np.zeros((9, 4), np.float32), "float32 (n, k) with n=9, k=11, got float32 (9, 4)"),
        ("activations/3/minimum", np.zeros((15, 6), np.float32), "float32 (g, d) with g=16, d=6, got float32 (15, 6)"),
        ("activations/3/sample", np.zeros(4, np.float32), "int64 (s) with s=4, got float32 (4,)"),
        ("activations/3/correlations/mean", np.zeros(6), "float64 (d) with d=5, got float64 (6,)"),
        ("activations/3/groups/0/mean", np.zeros(6), "float64 (d) with d=4, got float64 (6,)"),
        ("activations/3/correlations/comoment", np.zeros(5, np.float32), "(pairs) with pairs=15, got float32 (5,)"),
        ("saliency/3/salient", np.zeros((4, 2), np.uint8), "uint8 (m, bytes) with m=4, bytes=1, got uint8 (4, 2)"),
        ("saliency/3/converged", np.ones(4, np.uint8), "bool (m) with m=4, got uint8 (4,)"),
    ],
)
def test_array_of_another_shape_is_named(saved, name, array, expected):
    """What a record needs is said next to what lies there."""
    edit_arrays(saved, lambda arrays: arrays.update({name: array}))
    message = refusal(saved)
    assert f"{saved / ARRAYS} is malformed: expected {name} to be" in message
    assert expected in message

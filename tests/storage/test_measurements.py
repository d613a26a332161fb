"""Measurements come back as they were saved, and nothing else is taken for one."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.records import SCHEMA
from pytest_quantcheck.storage import load_measurement, load_provenance, save_measurement
from pytest_quantcheck.storage.measurement_files import FILE
from tests.storage.stored import read, write, write_text


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


def edit(directory, change):
    """Change the document in place, with hashes that vouch for it."""
    document, arrays = read(directory)
    change(document)
    write(directory, document, arrays)


def edit_arrays(directory, change):
    """Change the arrays in place, with hashes that vouch for them."""
    document, arrays = read(directory)
    change(arrays)
    write(directory, document, arrays)


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
    assert (saved / FILE).read_bytes() == (tmp_path / "again" / FILE).read_bytes()


def test_directory_holds_one_file(saved):
    """Nothing else is left."""
    assert sorted(path.name for path in saved.parent.rglob("*")) == sorted([FILE, "saved"])


def test_file_is_safetensors(saved):
    """Other programs read the arrays under flat names, and the document from the metadata."""
    with safe_open(saved / FILE, framework="numpy") as file:
        names, metadata = set(file.keys()), file.metadata()
        assert file.get_tensor("answers/index").tolist() == list(range(9))
    assert json.loads(metadata["measurement"])["provenance"]["bits"] == "nf4"
    assert {"answers/log_probs", "activations/3/minimum", "activations/14/groups/15/mean", "saliency/3/salient"} < names


def test_hashes_are_those_of_the_format(saved):
    """An independent writer of the format gives the very bytes: each hash is over what the format says."""
    expected = (saved / FILE).read_bytes()
    write(saved, *read(saved))
    assert (saved / FILE).read_bytes() == expected


def test_measurement_without_saliency_is_kept(measurement, same, tmp_path):
    """Attribution switched off is a measurement all the same."""
    without = dataclasses.replace(measurement, saliency={})
    save_measurement(without, tmp_path / "saved")
    assert same(without, load_measurement(tmp_path / "saved"))


def test_newer_measurement_takes_the_place_of_the_older(newer, saved, same):
    """Saving where a measurement is replaces the file."""
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


def test_other_files_of_the_directory_are_kept(measurement, same, tmp_path):
    """A folder of the user's own loses nothing."""
    (tmp_path / "thesis.tex").write_text("years of work")
    save_measurement(measurement, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert same(measurement, load_measurement(tmp_path))


def test_missing_file_is_named(saved):
    """A measurement that does not exist is not malformed."""
    (saved / FILE).unlink()
    assert f"{saved / FILE} does not exist: expected a stored measurement" in refusal(saved)


@pytest.mark.parametrize("load", [load_measurement, load_provenance])
def test_schema_2_is_refused_with_what_to_do(tmp_path, load):
    """Schema 2 had two files: both layouts are named, and what to do."""
    (tmp_path / "measurement.json").write_text('{"schema": 2}')
    (tmp_path / "arrays.safetensors").touch()
    with pytest.raises(StorageError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds a measurement of schema 2 (measurement.json beside arrays.safetensors), and this release "
        f"reads schema {SCHEMA} (measurement.safetensors); delete the directory and measure again with this release, "
        "or use the release that wrote it."
    )


def test_missing_directory_is_named(tmp_path):
    """No directory at all, or a file in its place."""
    assert "nowhere" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "does not exist" in refusal(tmp_path / "file")


def test_unreadable_file_is_named(saved):
    """An error of the system is passed on with the file."""
    (saved / FILE).unlink()
    (saved / FILE).mkdir()
    assert f"cannot read {saved / FILE}: expected a regular file, found a directory" in refusal(saved)


def test_truncated_header_is_malformed(saved):
    """A header cut anywhere is malformed, and the message names the file and what to do."""
    data = (saved / FILE).read_bytes()
    for length in range(0, 8 + int.from_bytes(data[:8], "little"), 97):
        (saved / FILE).write_bytes(data[:length])
        message = refusal(saved)
        assert f"{saved / FILE} is malformed" in message
        assert "measure again" in message


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100_000, "[]", "{}", '{"schema": "1"}', "null", f'{{"schema": {SCHEMA}}}'],
    ids=["cut", "deep", "list", "empty", "schema a string", "null", "schema alone"],
)
def test_other_documents_are_malformed(saved, text):
    """What is no JSON, or JSON of something else, is malformed."""
    write_text(saved, text)
    assert f"{saved / FILE} is malformed" in refusal(saved)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"{}",
        (8).to_bytes(8, "little") + b"[[[[[[[[",
        (8).to_bytes(8, "little") + b'"\xff    "',
        safetensors.numpy.save({"x": np.zeros(3)}),
        safetensors.numpy.save({"x": np.zeros(3)}, metadata={"format": "pt"}),
    ],
    ids=["empty", "text", "binary", "no metadata", "deep", "not UTF-8", "other arrays", "a model"],
)
def test_other_files_are_malformed(saved, data):
    """Neither a file of anything else nor other people's safetensors are taken for a measurement."""
    (saved / FILE).write_bytes(data)
    assert f"{saved / FILE} is malformed" in refusal(saved)


def test_field_of_another_type_is_named(saved):
    """A wrong value is named by its path in the document."""
    edit(saved, lambda document: document["provenance"].update(seed="seven"))
    assert "`$.provenance.seed`" in refusal(saved)


def test_other_schema_is_named_with_ours(saved):
    """A measurement of another release is not malformed: both schemas are named, whatever else changed."""
    edit(saved, lambda document: document.clear() or document.update(schema=SCHEMA + 1, unheard_of=True))
    message = refusal(saved)
    assert f"has schema {SCHEMA + 1}, and this release reads schema {SCHEMA}" in message
    assert "malformed" not in message


def test_truncated_arrays_are_seen(saved):
    """Arrays that were cut short are refused, with the length of the file."""
    data = (saved / FILE).read_bytes()
    (saved / FILE).write_bytes(data[:-1])
    assert f"expected {len(data)} bytes, got {len(data) - 1} bytes" in refusal(saved)


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
    assert f"{saved / FILE} is malformed: expected {name} to be" in message
    assert expected in message

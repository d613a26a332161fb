"""Checkpoints whose files could be endless: one sentence, and nothing is opened."""

import os

import pytest

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.checksums import verify
from pytest_quantcheck.models.files import SUMS, resolve_files
from pytest_quantcheck.models.source import Source, declared


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with a configuration and one file of weights."""
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


KINDS = {
    "{name}": "Too many levels of symbolic links",
    "nothing-there": "No such file or directory",
    "/dev/zero": "expected a regular file, found a device",
    os.mkfifo: "expected a regular file, found a named pipe",
    os.mkdir: "expected a regular file, found a directory",
}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", SUMS])
@pytest.mark.parametrize(("make", "said"), KINDS.items(), ids=["loop", "nowhere", "device", "pipe", "directory"])
def test_file_that_is_no_file(folder, name, make, said):
    """Weights, configuration, tokenizer and checksums are refused by name before they are read."""
    (folder / name).unlink(missing_ok=True)
    if isinstance(make, str):
        (folder / name).symlink_to(make.format(name=name))
    else:
        make(folder / name)
    with pytest.raises(ModelError, match=f"{name} cannot be read: {said}; (check the|fetch the) model"):
        verify(resolve_files(Source(str(folder))))


def test_sums_beyond_all_use(folder):
    """Sums are read whole, so their size has a bound."""
    (folder / SUMS).write_bytes(bytes(11_000_000))
    with pytest.raises(ModelError, match=r"expected at most 10 MB, found 10\.5"):
        verify(resolve_files(Source(str(folder))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "config.json is nested too deeply"),
        (" " * 11_000_000, "config.json cannot be read: expected at most 10 MB"),
    ],
    ids=["deep", "large"],
)
def test_configuration_beyond_all_use(folder, content, said):
    """A configuration is a small file; a first look at its layers has no answer, and loading says why."""
    (folder / "config.json").write_text(content)
    assert declared(str(folder)) == {}
    with pytest.raises(ModelError, match=said):
        resolve_files(Source(str(folder)))

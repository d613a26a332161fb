"""What is kept of work under way comes back bit for bit, or is refused by the file's name."""

import os
import resource

import numpy as np
import pytest
import safetensors.numpy

from pytest_quantcheck.errors import CheckpointError, StorageError
from pytest_quantcheck.storage import Checkpoint

ARRAYS = {
    "scalar": np.array(7),
    "none": np.empty((0, 3), dtype=np.float32),
    "bits": np.array([[True, False], [False, True]]),
    "floats": np.array([np.nan, np.inf, -0.0, 5e-324]),
    "part/columns": np.arange(12, dtype=np.int32).reshape(3, 4).T,
}


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in which one stage was saved."""
    kept = Checkpoint(tmp_path / "kept")
    kept.save("forward", ARRAYS)
    return kept


def plain(arrays):
    """Return arrays as dtype, shape and bytes by name."""
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


def test_arrays_come_back_bit_for_bit(checkpoint):
    """Scalars, empty arrays, NaN, other strides: what is loaded is what was saved, in a later object too."""
    assert plain(Checkpoint(checkpoint.directory).load("forward")) == plain(ARRAYS)


def test_a_stage_that_was_not_saved_is_none(checkpoint, tmp_path):
    """Neither another stage nor another directory is an error."""
    assert checkpoint.load("attribution") is None
    assert Checkpoint(tmp_path / "nowhere").load("forward") is None


def test_the_newest_state_of_each_stage_is_kept(checkpoint):
    """Saving replaces a stage and leaves the others; clearing forgets all, and may be repeated."""
    checkpoint.save("forward", {"x": np.ones(2)})
    checkpoint.save("attribution", {"x": np.zeros(2)})
    assert plain(checkpoint.load("forward")) == plain({"x": np.ones(2)})
    assert plain(checkpoint.load("attribution")) == plain({"x": np.zeros(2)})
    checkpoint.clear()
    checkpoint.clear()
    assert checkpoint.load("forward") is None
    assert not checkpoint.directory.exists()


@pytest.mark.parametrize("at", range(12))
def test_a_flipped_byte_is_found(checkpoint, at):
    """Anywhere in the file, header and hash included: refused by name, with what to do."""
    path = checkpoint.directory / "forward.safetensors"
    data = bytearray(path.read_bytes())
    data[(at * len(data)) // 12] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"kept/forward\.safetensors (is not what was saved|cannot be read).*Delete"):
        checkpoint.load("forward")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(checkpoint, size):
    """Cut short anywhere, down to nothing."""
    path = checkpoint.directory / "forward.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StorageError, match=r"forward\.safetensors cannot be read.*Delete it"):
        checkpoint.load("forward")


@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling"])
def test_what_is_no_file_is_refused(checkpoint, kind):
    """A named pipe is not waited for, and a link that leads nowhere is not taken for a stage that was not saved."""
    path = checkpoint.directory / "forward.safetensors"
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(path.name if kind == "loop" else "nowhere")
    with pytest.raises(CheckpointError, match=r"forward\.safetensors cannot be read .*Delete it"):
        checkpoint.load("forward")


def test_a_file_of_another_hand_is_refused(checkpoint):
    """Safetensors without our hash, and another stage's file under this name."""
    path = checkpoint.directory / "forward.safetensors"
    path.rename(checkpoint.directory / "attribution.safetensors")
    safetensors.numpy.save_file({"x": np.ones(2)}, path)
    for stage in ("forward", "attribution"):
        with pytest.raises(StorageError, match=rf"{stage}\.safetensors is not what was saved"):
            checkpoint.load(stage)


def test_a_directory_in_place_of_the_file_is_refused(checkpoint):
    """What is there and cannot be read is not taken for nothing."""
    (checkpoint.directory / "attribution.safetensors").mkdir()
    with pytest.raises(StorageError, match=r"attribution\.safetensors cannot be read"):
        checkpoint.load("attribution")


def test_a_full_disk_leaves_the_older_state(checkpoint):
    """A saving that does not fit says so; what was kept before is still there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*forward\.safetensors: File too large.*unchanged"):
            checkpoint.save("forward", {"x": np.ones(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert plain(checkpoint.load("forward")) == plain(ARRAYS)
    assert [path.name for path in checkpoint.directory.iterdir()] == ["forward.safetensors"]

"""A release is played: three checkpoints pass or fail as with the reference, and no damaged copy passes silently."""

import numpy as np
import pytest
import safetensors.numpy

from tests.studies.release import FORMATS, SUMS, Release, write_sums
from tests.studies.tampering import TAMPERS, codes, scales

BLOCK = 2
QUICK = ("--samples", "64", "--attribution-samples", "8")


@pytest.fixture
def checkpoint(tmp_path):
    """A weights file with two blocks' gate projections as LLM.int8() stores them."""
    random = np.random.default_rng(0)
    arrays = {}
    for block in (BLOCK, BLOCK + 1):
        name = f"model.layers.{block}.mlp.gate_proj"
        arrays[f"{name}.weight"] = random.integers(-127, 128, (8, 4)).astype(np.int8)
        arrays[f"{name}.SCB"] = random.random(8, dtype=np.float32)
        arrays[f"{name}.state"] = random.integers(0, 256, 3 + block).astype(np.uint8)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.name)
def test_damage_changes_what_it_says(checkpoint, tamper):
    """One bit of one byte, or one module's tensors; the file is as long as before and can be read."""
    path = checkpoint / "model.safetensors"
    before, arrays = path.read_bytes(), safetensors.numpy.load_file(path)
    tamper.damage(checkpoint, BLOCK)
    after, found = path.read_bytes(), safetensors.numpy.load_file(path)
    changed = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    if tamper.name == "other-layer":
        for name in ("weight", "SCB"):
            other = arrays[f"model.layers.{BLOCK + 1}.mlp.gate_proj.{name}"]
            assert np.array_equal(found[f"model.layers.{BLOCK}.mlp.gate_proj.{name}"], other)
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays if name.endswith("state"))
    else:
        (place,) = changed
        assert (before[place] ^ after[place]).bit_count() == 1
        damaged = codes(checkpoint, BLOCK) if tamper.name == "low-bit" else scales(checkpoint, BLOCK)
        assert damaged.begin <= place < damaged.end


def test_exponents_are_what_is_flipped(checkpoint):
    """The highest bit makes a scale huge, a lower one four times as large or a quarter of it."""
    name = f"model.layers.{BLOCK}.mlp.gate_proj.SCB"
    first = safetensors.numpy.load_file(checkpoint / "model.safetensors")[name]
    TAMPERS[1].damage(checkpoint, BLOCK)
    second = safetensors.numpy.load_file(checkpoint / "model.safetensors")[name]
    TAMPERS[1].damage(checkpoint, BLOCK)
    TAMPERS[0].damage(checkpoint, BLOCK)
    third = safetensors.numpy.load_file(checkpoint / "model.safetensors")[name]
    assert second[4] / first[4] in {0.25, 4}
    assert third[4] > 1e30
    assert np.array_equal(np.delete(first, 4), np.delete(third, 4))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The built-in model, measured, saved in three formats, and moved away."""
    pytest.importorskip("torchao")
    release = Release(tmp_path_factory.mktemp("release"), QUICK)
    release.unpack("builtin", "bf16")
    release.measure()
    for name in FORMATS:
        release.quantize(name)
    release.move_away()
    return release


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_release_is_gated_without_the_reference(release, name):
    """Every saved directory gets its verdicts from the baseline alone."""
    found = release.gate(release.checkpoint(name), baseline=True)
    assert found.status in {0, 1}
    assert found.report is not None
    assert {verdict.candidate for verdict in found.report.verdicts} == {name}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.name)
def test_damage_is_told(release, name, tamper):
    """With the checksums it was released with, a damaged copy is refused; without, its report has another hash."""
    refused = release.gate(release.tampered(name, tamper, sums=True), baseline=True)
    assert refused.status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    assert SUMS in refused.outcome
    whole = release.gate(release.checkpoint(name), baseline=True)
    measured = release.gate(release.tampered(name, tamper, sums=False), baseline=True)
    assert measured.status != 0 or measured.content not in {None, whole.content}


def test_sums_are_those_of_the_files(tmp_path):
    """As `sha256sum *` prints them."""
    (tmp_path / "a").write_bytes(b"")
    write_sums(tmp_path)
    assert (tmp_path / SUMS).read_text() == ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n")

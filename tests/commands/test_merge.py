"""`measure --shard` and `merge`: a measurement made in parts is the whole, and no other parts are taken for it."""

import dataclasses
import re
import shutil

import msgspec
import numpy as np
import pytest

from pytest_quantcheck.commands import main
from pytest_quantcheck.storage import load_measurement, save_measurement

PLAN = ("--samples", "24", "--batch-size", "4", "--layers", "2", "--attribution-samples", "8")


def measure(folder, name, *options):
    """Measure the built-in model, or one shard of it."""
    assert main(["measure", "--model", "builtin", "--out", str(folder / name), *PLAN, *options]) == 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The reference and int8, whole and in shards; not to be changed."""
    folder = tmp_path_factory.mktemp("shards")
    measure(folder, "reference")
    against = ("--reference", str(folder / "reference"), "--bits", "int8")
    measure(folder, "int8", *against)
    for number in (1, 2, 3):
        measure(folder, f"reference-{number}", f"--shard={number}/3")
        measure(folder, f"int8-{number}", f"--shard={number}/3", *against)
    return folder


@pytest.fixture
def merged(tmp_path, measured):
    """Merge some directories of measurements."""

    def call(*names):
        return ["merge", *(str(measured / name) for name in names), "--out", str(tmp_path / "whole")]

    return call


@pytest.fixture
def changed(tmp_path, measured):
    """Copy a measurement that says otherwise where it comes from."""

    def call(name, **change):
        found = load_measurement(measured / name / "builtin")
        provenance = msgspec.structs.replace(found.provenance, **change)
        save_measurement(dataclasses.replace(found, provenance=provenance), tmp_path / "other" / "builtin")
        return tmp_path / "other"

    return call


@pytest.mark.parametrize("name", ["reference", "int8"])
def test_merged_shards_are_the_measurement_of_the_whole(measured, tmp_path, merged, capsys, name):
    """In any order; what is counted and answered is equal to the last bit, sums to the rounding of adding them up."""
    assert main(merged(f"{name}-3", f"{name}-1", f"{name}-2")) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf".*whole/builtin: builtin as {name} on builtin, 24 prompts, \d\.\d MB", line)
    found, expected = (load_measurement(folder / "builtin") for folder in (tmp_path / "whole", measured / name))
    assert found.provenance == expected.provenance
    for array in ("index", "token", "confidence", "log_probs", "rest"):
        assert np.array_equal(getattr(found.answers, array), getattr(expected.answers, array))
    assert np.array_equal(found.saliency[2].salient, expected.saliency[2].salient)
    assert np.array_equal(found.activations[2].maximum, expected.activations[2].maximum)
    sums, others = (one.activations[2].correlations for one in (found, expected))
    rounded = others.count * 2**-24 * np.abs(others.comoment).max()  # each addition by up to 2^-24 of what is there
    np.testing.assert_allclose(sums.comoment, others.comoment, rtol=0, atol=rounded)


def test_merged_reference_is_a_baseline(measured, tmp_path, merged, capsys):
    """A candidate is compared with it as with the one that was measured at once."""
    assert main(merged("reference-1", "reference-2", "reference-3")) == 0
    assert main(["compare", str(tmp_path / "whole"), str(measured / "int8")]) == 0
    against = ("--reference", str(tmp_path / "whole"), "--bits", "int8")
    measure(tmp_path, "again", *against)
    assert "int8: may be released" in capsys.readouterr().out


def test_a_shard_says_which_it_is(measured, tmp_path, capsys):
    """And how many prompts it has."""
    measure(tmp_path, "out", "--shard=2/3")
    assert "builtin as reference on builtin, shard 2 of 3, 8 prompts, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("reference-1",),
            r"2 of 3 shards of builtin are missing: 2 and 3; measure with --shard=K/3, and name all directories",
        ),
        (("int8-1", "int8-3"), r"1 of 3 shards of builtin is missing: 2; .*"),
        (("int8-1", "int8-2", "int8-2", "int8-3"), r".*int8-2/builtin and .*int8-2/builtin are both shard 2 of 3: .*"),
        (
            ("int8-1", "reference-2", "int8-3"),
            r".*int8-1/builtin and .*reference-2/builtin: expected shards of one measurement, got bits 'int8' and .*",
        ),
        (("reference-1", "reference"), r".*/reference/builtin is no shard: it was measured on all of builtin; .*"),
        (("reference", "reference-1"), r".*/reference/builtin is no shard: it was measured on all of builtin; .*"),
        (("reference-1", "nothing"), r".*/nothing: expected a measurement, .* found none.*"),
    ],
)
def test_shards_that_are_not_the_whole_are_refused(tmp_path, merged, refused, names, sentence):
    """What is missing, there twice or of another measurement is named, and nothing is written."""
    assert re.fullmatch(sentence, refused(*merged(*names)))
    assert not (tmp_path / "whole").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed 0 and 1"),
        ({"batch_size": 8}, "batch_size 4 and 8"),
        ({"libraries": {}}, r"libraries\.\w+ '.*' and None; .*"),
        ({"content_hash": "1" * 64}, "content_hash '.*' and '1+'"),
        ({"shard": (2, 4)}, r".*/reference-1/builtin is one of 3 shards and .*/other/builtin one of 4: .*"),
    ],
)
def test_shards_that_were_not_measured_alike_are_refused(merged, refused, changed, change, said):
    """By what differs: settings, libraries, the model's files, the number of shards."""
    other = changed("reference-2", **change)
    assert re.search(said, refused(*merged("reference-1", other, "reference-3")))


def test_set_that_a_directory_lacks_is_missing(measured, merged, refused, changed):
    """Each prompt set needs all shards of it."""
    both = changed("reference-1", prompt_set="sums")
    shutil.copytree(measured / "reference-1" / "builtin", both / "sums")
    assert re.match(
        "2 of 3 shards of sums are missing: 2 and 3; ", refused(*merged(both, "reference-2", "reference-3"))
    )


def test_shard_is_no_measurement_of_the_whole(measured, tmp_path, refused):
    """Neither as a baseline nor to be judged."""
    shard = str(measured / "reference-2")
    sentence = refused("compare", shard, measured / "int8")
    assert re.fullmatch(r".*reference-2/builtin is shard 2 of 3 alone: merge all 3 with .*", sentence)
    assert refused("compare", measured / "reference", measured / "int8-1").startswith(f"{measured / 'int8-1'}")
    against = ("--reference", shard, "--bits", "int8")
    assert sentence == refused("measure", "--model", "builtin", "--out", tmp_path / "out", *PLAN, *against)


def test_whole_has_a_place_of_its_own(measured, refused):
    """No shard is written over, with `--force` neither; a measurement that is there only with it."""
    shards = [measured / f"reference-{number}" for number in (1, 2, 3)]
    assert "is the directory of a shard" in refused("merge", *shards, "--out", shards[1], "--force")
    assert "holds a measurement already" in refused("merge", *shards, "--out", measured / "int8")
    assert refused("merge", *shards) == "--out is missing: add --out=DIR"


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/1", "a/b", "1/2/3", ""])
def test_what_is_no_shard_is_refused(tmp_path, refused, text):
    """Before anything is read."""
    sentence = refused("measure", "--model", "builtin", "--out", tmp_path / "out", f"--shard={text}")
    assert sentence == f"--shard: expected one of at least two shards, counted from 1, such as 3/8, got {text!r}"


def test_more_shards_than_batches_are_refused(tmp_path, refused):
    """Before a model is loaded."""
    sentence = refused("measure", "--model", "builtin", "--out", tmp_path / "out", *PLAN, "--shard=7/7")
    assert sentence.startswith("--shard=7/7: expected at most 6 shards of builtin, whose 24 prompts are 6 batches of 4")
    assert not (tmp_path / "out").exists()

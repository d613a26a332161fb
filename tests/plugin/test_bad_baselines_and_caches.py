"""Bad baselines end a run before a model is loaded; a bad entry of the cache costs time and nothing else.

A damaged entry is set aside, said in a line, and measured again.
"""

import shutil
import subprocess

import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.records import SCHEMA
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.local_models import LocalModels
from tests.gates import settings

pytestmark = pytest.mark.ci

SIZE = ("--quantcheck-samples=12", "--quantcheck-layers=2", "--quantcheck-attribution=off")
QUICK = ("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-bits=8", *SIZE)
FILE = "measurement.safetensors"


def flip(path, position):
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """The bytes of a good baseline."""
    place = tmp_path_factory.mktemp("stored")
    Gate(settings(baseline=str(place), update_baseline=True)).measure()
    return (place / "builtin" / FILE).read_bytes()


@pytest.fixture
def stored(baseline, tmp_path):
    """A copy of it, to be damaged."""
    path = tmp_path / "stored" / "builtin" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(baseline)
    return path


def refuse_baseline(refused, path, *arguments, **model):
    """Demand exit status 4, a sentence that names the file and says what to do, and the file as it was."""
    before = path.read_bytes()
    sentence = refused(f"--quantcheck-baseline={path.parents[1]}", *SIZE, *arguments, **model)
    assert str(path) in sentence
    assert "measure again" in sentence
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: flip(path, -1),
        lambda path: flip(path, 1000),
        lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["one byte short", "cut in the header", "byte of the arrays", "byte of the header", "length", "empty"],
)
@pytest.mark.parametrize("dry", [(), ("--quantcheck-dry-run",)], ids=["run", "dry"])
def test_damaged_baseline(refused, stored, damage, dry):
    """Whatever byte it is, and in a dry run alike."""
    damage(stored)
    refuse_baseline(refused, stored, "--quantcheck-bits=8", *dry)


def test_damaged_baseline_without_its_reference(refused, stored, checkpoint):
    """Where only a candidate is named beside it."""
    flip(stored, -1)
    refuse_baseline(refused, stored, f"--quantcheck-candidate={checkpoint}", model=None)


def test_baseline_that_is_a_link_elsewhere(refused, tmp_path):
    """Found out before anything is loaded; the file that it leads to is another one's."""
    stored = tmp_path / "stored" / "builtin" / FILE
    stored.parent.mkdir(parents=True)
    stored.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"mine")
    said = refused(f"--quantcheck-baseline={tmp_path / 'stored'}", "--quantcheck-update-baseline")
    assert f"cannot write {stored}: expected a regular file or nothing there, found a link to " in said
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


@pytest.fixture
def unwritable(tmp_path):
    """A folder that cannot be written to, for root too: a read-only file system."""
    path = tmp_path / "read-only"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize(("option", "more"), [("cache", ()), ("baseline", ("--quantcheck-update-baseline",))])
def test_place_that_cannot_be_written(refused, unwritable, option, more, monkeypatch):
    """Found out before anything is loaded."""
    loaded = []
    monkeypatch.setattr(LocalModels, "load", lambda _models, target: loaded.append(target.name))
    said = refused(f"--quantcheck-{option}={unwritable}", "--quantcheck-bits=8", *more)
    assert str(unwritable) in said
    assert "written" in said or "Read-only file system" in said
    assert not loaded


def take_other(entry, other):
    """Put another entry's files in this one's place."""
    shutil.rmtree(entry)
    shutil.copytree(other, entry)


def change_schema(entry, _other):
    """Write another schema into the header, as another release would."""
    path = entry / FILE
    ours, theirs = (rf"\"schema\":{number}".encode() for number in (SCHEMA, SCHEMA + 1))
    path.write_bytes(path.read_bytes().replace(ours, theirs))


def block(path):
    """Make a file unreadable, for root too."""
    path.unlink()
    path.mkdir()


def leave_shard(entry, _other):
    """Replace the measurement by a damaged shard of one that was interrupted."""
    shard = entry / "shards" / "1-of-1"
    shard.mkdir(parents=True)
    (entry / FILE).rename(shard / FILE)
    (shard / FILE).write_bytes((shard / FILE).read_bytes()[:-1000])


def leave_others_shard(entry, other):
    """Replace the measurement by a whole shard of another one."""
    (entry / FILE).unlink()
    shard = entry / "shards" / "1-of-1"
    shard.mkdir(parents=True)
    shutil.copy(other / FILE, shard)


def take_measurement(entry, other):
    """Put another entry's measurement, which is whole, in the place of this one's."""
    shutil.copy(other / FILE, entry)


DAMAGE = {
    "another's measurement": take_measurement,
    "truncated": lambda entry, _other: (entry / FILE).write_bytes((entry / FILE).read_bytes()[:-1000]),
    "empty": lambda entry, _other: (entry / FILE).write_bytes(b""),
    "byte of the header": lambda entry, _other: flip(entry / FILE, 200),
    "byte of the arrays": lambda entry, _other: flip(entry / FILE, -1),
    "another schema": change_schema,
    "measurement of schema 2": lambda entry, _other: (entry / FILE).rename(entry / "measurement.json"),
    "another entry": take_other,
    "another entry's key": lambda entry, other: shutil.copy(other / "key.json", entry),
    "no key": lambda entry, _other: (entry / "key.json").unlink(),
    "unreadable": lambda entry, _other: block(entry / FILE),
    "unreadable key": lambda entry, _other: block(entry / "key.json"),
    "shard": leave_shard,
    "another's shard": leave_others_shard,
}


def replace_by_file(entry, _outside):
    """A file where the entry's folder was."""
    shutil.rmtree(entry)
    entry.write_text("not a folder")


def lock_by_folder(entry, _outside):
    """A folder in the place of the lock."""
    entry.with_suffix(".lock").unlink(missing_ok=True)
    entry.with_suffix(".lock").mkdir()


def lock_by_link(entry, _outside):
    """A lock that leads to itself."""
    entry.with_suffix(".lock").unlink(missing_ok=True)
    entry.with_suffix(".lock").symlink_to(entry.with_suffix(".lock").name)


def link_to_itself(entry, _outside):
    """An entry that leads to itself."""
    shutil.rmtree(entry)
    entry.symlink_to(entry.name)


def link_elsewhere(entry, outside):
    """An entry that leads out of the cache."""
    entry.rename(outside)
    entry.symlink_to(outside)


IN_THE_WAY = [replace_by_file, lock_by_folder, lock_by_link, link_to_itself, link_elsewhere]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with a reference and a candidate, and what they measured."""
    place = tmp_path_factory.mktemp("made") / "cache"
    return place, Gate(settings(cache=str(place))).compare("int8")


@pytest.fixture
def cache(filled, tmp_path):
    """A copy of it: its folder, the candidate's entry, and the reference's."""
    place = shutil.copytree(filled[0], tmp_path / "cache")
    entries = sorted((path.parent for path in place.rglob(FILE)), key=is_reference)
    return (place, *entries)


def is_reference(entry):
    """Tell from its key whether an entry is the reference's."""
    return '"bits": "int8"' not in (entry / "key.json").read_text()


def count_remarks(found):
    """Count in how many places a run says it; lines are broken where there is no room."""
    return "".join(found.text.split()).count("adamagedentryofthecachewassetasideas")


@pytest.mark.parametrize(("damage", "warnings"), [*((damage, "error") for damage in DAMAGE), ("truncated", "default")])
def test_damaged_entry_is_set_aside_and_measured_again(cache, gate, damage, warnings):
    """Green, also where warnings are errors, with a line that says where the old entry is; the next run takes the new.

    The line is no warning, so that `-W error`, under which every other one would end the run, changes nothing.
    """
    place, entry, other = cache
    DAMAGE[damage](entry, other)
    arguments = (*QUICK, f"--quantcheck-cache={place}", "-W", warnings, "-k", "kl_divergence")
    found = gate(*arguments)
    assert found.status == 0, found.text
    assert count_remarks(found) == 1
    (aside,) = [*place.glob("*.damaged"), *entry.glob("*.damaged")]
    assert f"setasideas{aside.name}" in "".join(found.text.split())
    again = gate(*arguments)
    assert (again.status, count_remarks(again)) == (0, 0)


@pytest.mark.parametrize("put", IN_THE_WAY)
def test_entry_that_cannot_be_used_costs_time_alone(cache, gate, tmp_path, put):
    """It is measured without the cache, one line says why, and nothing is changed."""
    place, entry, _ = cache
    put(entry, tmp_path / "outside")
    found = gate(*QUICK, f"--quantcheck-cache={place}")
    assert found.status == 0, found.text
    words = " ".join(found.text.split())
    assert words.count("- int8 on builtin: measured without the cache, which could not be used: ") == 1
    assert "error" not in found.lines[-1]


def test_disk_that_is_full_when_an_entry_is_saved(cache, filled, monkeypatch):
    """The measurement is not lost."""
    place, entry, _ = cache
    shutil.rmtree(entry)

    def full(*_):
        raise StorageError("cannot write measurement.safetensors: No space left on device")

    monkeypatch.setattr("pytest_quantcheck.storage.cache.save_measurement", full)
    found = Gate(settings(cache=str(place))).compare("int8")
    assert found.estimates == filled[1].estimates
    assert any("measured without the cache" in note and "No space left" in note for note in found.notes)


@pytest.mark.parametrize("damage", ["truncated", "another entry", "shard", "another's measurement"])
def test_numbers_are_those_of_a_cache_without_damage(cache, filled, damage):
    """Bit for bit, and nothing of the damaged entry is lost."""
    place, entry, other = cache
    DAMAGE[damage](entry, other)
    kept = {path.name: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    found = Gate(settings(cache=str(place))).compare("int8")
    assert found.estimates == filled[1].estimates
    (aside,) = [*place.glob("*.damaged"), *entry.glob("*.damaged")]
    for path in aside.rglob("*"):
        assert path.is_dir() or path.read_bytes() == kept[path.name]


def test_damaged_reference_is_set_aside_too(cache, gate):
    """Its line stands with each candidate that was compared with it."""
    place, _, reference = cache
    flip(reference / FILE, -1)
    found = gate(*QUICK, f"--quantcheck-cache={place}")
    assert (found.status, count_remarks(found)) == (0, 1)
    assert "- reference on builtin: a damaged entry" in found.text


def test_second_damage_is_set_aside_beside_the_first(cache):
    """Under a name of its own."""
    place, entry, _ = cache
    for _ in range(2):
        flip(entry / FILE, -1)
        Gate(settings(cache=str(place))).compare("int8")
    assert sorted(path.name for path in place.glob("*.damaged*")) == [
        f"{entry.name}.damaged",
        f"{entry.name}.damaged-2",
    ]


def test_workers_share_the_new_entry(cache, gate):
    """One of two workers sets the entry aside, the other waits for what it measures; the line is not lost."""
    place, entry, _ = cache
    flip(entry / FILE, -1)
    found = gate(*QUICK, f"--quantcheck-cache={place}", "-n", "2")
    assert found.status == 0, found.text
    assert count_remarks(found) == 1
    assert len([*place.glob("*.damaged")]) == 1


def test_measure_says_it(cache, tmp_path, capsys):
    """The command, too, sets the entry aside, measures again and prints the line."""
    from pytest_quantcheck.commands import main

    place, _, reference = cache
    flip(reference / FILE, -1)
    options = ["--model=builtin", "--samples=12", "--layers=2", "--attribution=off", "--continuation=0"]
    assert main(["measure", *options, f"--cache={place}", f"--out={tmp_path / 'out'}"]) == 0
    assert "reference on builtin: a damaged entry of the cache was set aside" in capsys.readouterr().out

"""`python -m pytest_quantcheck profiles …`: what it prints, and its exit status."""

import shutil
import subprocess
import sys

import pytest

from pytest_quantcheck.commands import main
from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.profiles import thresholds_directory
from pytest_quantcheck.profiles.checking import check_published


@pytest.fixture
def file(tmp_path):
    """A copy of the default profile, to be changed: `file(name, old, new)` gives its path."""
    text = (thresholds_directory() / "default" / "1.toml").read_text(encoding="utf-8")

    def write(name, old="", new=""):
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_show_prints_the_profile(capsys):
    """The whole profile goes to stdout."""
    assert main(["profiles", "show", "default@1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("default@1\n")
    assert "  at most 0.05, every case\n    Nulls -0.031" in out
    assert err == ""


def test_diff_of_equal_profiles_is_0(capsys, file):
    """A copy says the same."""
    assert main(["profiles", "diff", "default@1", file("copy.toml")]) == 0
    assert capsys.readouterr().out == "default@1 and default@1 say the same\n"


def test_diff_of_other_profiles_is_1(capsys, file):
    """A limit that changed is printed with both values."""
    assert main(["profiles", "diff", "default@1", file("lax.toml", "max = 0.2", "max = 0.25")]) == 1
    assert capsys.readouterr().out == "metrics.flip_rate.max: 0.2 -> 0.25\n"


def test_check_names_the_place_of_each_fault(capsys, file):
    """Bad files get a sentence on stderr, good ones a line on stdout, and the status is 1."""
    bad = [file("one.toml", "max = 0.2", "max = nan"), file("two.toml", "[decision]", "[decision")]
    assert main(["profiles", "check", bad[0], file("good.toml"), bad[1]]) == 1
    out, err = capsys.readouterr()
    assert "good.toml: valid, 9 limits on accuracy_drop, " in out
    one, two = err.splitlines()
    assert one == (
        f"{bad[0]}: metrics.flip_rate.max: expected a finite limit of at least 0 and at most 0.999 (it is never above "
        "1) for flip_rate, got nan"
    )
    assert two.startswith(f"{bad[1]} is not TOML: ")


def test_check_without_arguments_checks_all_that_is_published(capsys):
    """The package's own profiles are good."""
    assert main(["profiles", "check"]) == 0
    assert "default@2: valid, 10 limits" in capsys.readouterr().out


def test_published_profiles_are_checked_against_their_checksums(tmp_path):
    """One that was changed, one that is gone and one that was never published are each told, by name."""
    shutil.copytree(thresholds_directory() / "default", tmp_path / "default")
    (tmp_path / "default" / "2.toml").write_bytes((tmp_path / "default" / "1.toml").read_bytes())
    (tmp_path / "CHECKSUMS").write_text(f"{'0' * 64}  default/1.toml\n{'1' * 64}  gone/7.toml\n")
    changed, new, gone = check_published(tmp_path)
    assert all(isinstance(finding, ProfileError) for finding in (changed, new, gone))
    assert "1.toml is not what was published: expected checksum 0000" in str(changed)
    assert "2.toml is not what was published: expected checksum in CHECKSUMS" in str(new)
    assert "7.toml does not exist, and CHECKSUMS lists it" in str(gone)


def test_a_directory_without_checksums_is_told(tmp_path):
    """No list, no promise."""
    (problem,) = check_published(tmp_path)
    assert "CHECKSUMS: No such file" in str(problem)


@pytest.mark.parametrize("verb", [["show"], ["diff", "default@1"]])
def test_what_cannot_be_read_is_one_sentence_and_2(capsys, verb):
    """A profile that is not there is not a difference."""
    assert main(["profiles", *verb, "strict@9"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("profile 'strict@9': expected NAME@VERSION or the path of a .toml file; there are default@1")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["profiles"], ["profiles", "diff", "default@1"], ["profiles", "prove"]])
def test_bad_usage_is_2(capsys, arguments):
    """The usage says how it is used."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.startswith("usage: python -m pytest_quantcheck")


def test_the_command_loads_no_model_library():
    """Looking at a text takes neither torch nor transformers."""
    code = """
import runpy, sys
sys.argv = ["pytest_quantcheck", "profiles", "show", "default@1"]
try:
    runpy.run_module("pytest_quantcheck", run_name="__main__", alter_sys=True)
except SystemExit as end:
    loaded = [name for name in ("torch", "transformers", "scipy", "pytest") if name in sys.modules]
    print(end.code, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_reader_that_leaves_is_no_error():
    """Output into `head` ends quietly."""
    command = [sys.executable, "-m", "pytest_quantcheck", "profiles", "show", "default@1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_stream_without_the_characters_gets_escapes(file):
    """A terminal that knows only ASCII is no reason to stop."""
    path = file("accent.toml", "Limits between", "Limités between")
    done = subprocess.run(
        [sys.executable, "-m", "pytest_quantcheck", "profiles", "show", path],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert r"Limit\xe9s between" in done.stdout

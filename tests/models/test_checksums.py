"""`SHA256SUMS` beside a model: what it says must hold, and no file is vouched for that it does not name."""

import os
from hashlib import sha256

import pytest

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import checksums
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.source import Source

FILES = ("config.json", "model.safetensors", "tokenizer.json")
ZEROS = "0" * 64


@pytest.fixture
def folder(tmp_path):
    """A directory with three files that decide what a model computes, and a README."""
    made = tmp_path / "model"
    made.mkdir()
    for name in (*FILES, "README.md"):
        (made / name).write_text(f'{{"content": "{name}"}}')
    return made


def line(folder, name, text="{sum}  {name}"):
    """The line of one file."""
    return text.format(sum=sha256((folder / name).read_bytes()).hexdigest(), name=name) + "\n"


def sums(folder, *names, text="{sum}  {name}"):
    """Write the sums of these files."""
    (folder / "SHA256SUMS").write_text("".join(line(folder, name, text) for name in names))


def source(path):
    """What a user names."""
    return Source(str(path))


def verify(named):
    """Verify the files of what a user names."""
    return checksums.verify(resolve_files(named))


def describe(named):
    """What is said of the files, after they were verified."""
    verify(named)
    return checksums.describe_files(resolve_files(named))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no file"),
        ("\n\n", "names no file"),
        ("# nothing but this\n", "names no file"),
        ("hello\n", "line 1"),
        (f"{ZEROS}\n", "line 1"),
        (f"{ZEROS}  \n", "' ', and there is no such file"),
        (f"{ZEROS[1:]}  config.json\n", "line 1"),
        (f"SHA256 (config.json) = {ZEROS}\n", "config.json is not the file that SHA256SUMS beside it names"),
        (f"MD5 (config.json) = {ZEROS}\n", "line 1"),
        (f"{ZEROS}\tconfig.json\n", "line 1"),
        ("\x00\xff\n", "line 1"),
        (f"{ZEROS}  /etc/hostname\n", "'/etc/hostname', which is not in"),
        (f"{ZEROS}  ../model/config.json\n", "'../model/config.json', which is not in"),
        (f"{ZEROS}  a/../config.json\n", "'a/../config.json', which is not in"),
        (f"{ZEROS}  absent.safetensors\n", "'absent.safetensors', and there is no such file"),
        (f"{ZEROS}  .\n", "'.', and there is no such file"),
        (f"{ZEROS}  config.json\n", "config.json is not the file that SHA256SUMS beside it names"),
        (f"{ZEROS}  README.md\n", "README.md is not the file that SHA256SUMS beside it names"),
        (f"{ZEROS}  a\0b\n", "a\\x00b', and there is no such file"),
    ],
)
def test_sums_that_do_not_hold_are_refused(folder, content, said):
    """Each by name, in one sentence or two; the same where it follows a line that holds."""
    (folder / "SHA256SUMS").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError) as error:
        verify(source(folder))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_every_line_is_read(folder):
    """One bad line among good ones is refused, by its number."""
    good = line(folder, "config.json")
    (folder / "SHA256SUMS").write_text(good + "\n" + good.replace("config", "../config"))
    with pytest.raises(ModelError, match=r"names '\.\./config\.json'"):
        verify(source(folder))
    (folder / "SHA256SUMS").write_text(good + ZEROS + "  config.json\n")
    with pytest.raises(ModelError, match=r"names 'config\.json' twice"):
        verify(source(folder))


@pytest.mark.parametrize(
    "text",
    [
        "{sum}  {name}",
        "{sum} *{name}",
        "{sum}  ./{name}",
        "{sum} *./{name}",
        "{sum}  {name}\r",
        "\n{sum}  {name}\n# x",
        "SHA256 ({name}) = {sum}",
    ],
)
def test_spellings_of_sha256sum(folder, text):
    """Text and binary marks, `./`, Windows line ends, empty lines and comments."""
    sums(folder, *FILES, text=text)
    assert "SHA256SUMS beside them covers all 3 files" in describe(source(folder))


def test_mark_of_the_byte_order(folder):
    """Editors of Windows put it before the first line."""
    sums(folder, *FILES)
    (folder / "SHA256SUMS").write_text("\ufeff" + (folder / "SHA256SUMS").read_text())
    assert "covers all 3 files" in describe(source(folder))


def test_hashes_in_capitals(folder):
    """Tools of Windows write them so."""
    sums(folder, *FILES)
    found = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text("\n".join(one[:64].upper() + one[64:] for one in found.splitlines()))
    assert "covers all 3 files" in describe(source(folder))


def test_escaped_names(folder):
    r"""sha256sum marks a name with a line end or a backslash by a backslash before the hash."""
    (folder / "a\nb\\c.model").write_text("{}")
    digest = sha256(b"{}").hexdigest()
    (folder / "SHA256SUMS").write_text(f"\\{digest}  a\\nb\\\\c.model\n")
    assert "covers 1 of 4 files" in describe(source(folder))


def test_its_own_line_is_no_claim(folder):
    """`sha256sum * > SHA256SUMS`, run again, lists the file itself as it was when it was empty."""
    sums(folder, *FILES)
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{sha256(b'').hexdigest()}  SHA256SUMS\n")
    assert "covers all 3 files" in describe(source(folder))


def test_what_is_covered_is_said(folder):
    """Weights come first among what is not covered; a README is not among the files of a model."""
    sums(folder, "config.json")
    assert "covers 1 of 3 files; model.safetensors and tokenizer.json are not covered" in describe(source(folder))
    sums(folder, "README.md", "config.json", "tokenizer.json")
    assert "covers 2 of 3 files; model.safetensors is not covered" in describe(source(folder))
    sums(folder, "README.md")
    said = describe(source(folder))
    assert "covers 0 of 3 files; model.safetensors, config.json and 1 more are not covered" in said
    assert "SHA256SUMS beside them says" not in said


def test_files_in_folders_are_verified(folder):
    """A name may be a path within the directory."""
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text("x")
    sums(folder, *FILES, "onnx/model.onnx")
    assert "covers all 3 files" in describe(source(folder))
    (folder / "onnx" / "model.onnx").write_text("y")
    with pytest.raises(ModelError, match=r"onnx/model.onnx is not the file"):
        verify(source(folder))


def test_no_sums(folder):
    """Nothing is vouched for."""
    assert "no SHA256SUMS beside them says whether they were changed" in describe(source(folder))


def test_listed_pipe_is_not_read(folder):
    """It would wait for ever."""
    os.mkfifo(folder / "pipe")
    (folder / "SHA256SUMS").write_text(f"{ZEROS}  pipe\n")
    with pytest.raises(ModelError, match="names 'pipe', and there is no such file"):
        verify(source(folder))


def test_one_file_among_others(tmp_path):
    """Beside a GGUF file lie the sums of a whole release: its own line must hold, and the others need not be here."""
    model = tmp_path / "model.gguf"
    model.write_text("weights")
    assert "no SHA256SUMS" in describe(source(model))
    (tmp_path / "SHA256SUMS").write_text(line(tmp_path, "model.gguf") + f"{ZEROS}  other.gguf\n")
    assert "SHA256SUMS beside it covers it" in describe(source(model))
    model.write_text("changed")
    with pytest.raises(ModelError, match=r"model.gguf is not the file"):
        verify(source(model))
    (tmp_path / "SHA256SUMS").write_text(f"{ZEROS}  other.gguf\n")
    assert "SHA256SUMS beside it does not cover it" in describe(source(model))
    (tmp_path / "SHA256SUMS").write_text("garbage\n")
    with pytest.raises(ModelError, match="line 1"):
        verify(source(model))

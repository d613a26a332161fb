"""What the libraries open of a model is what is listed, hashed and vouched for, in every format."""

import os
import sys
from pathlib import Path

import pytest

from pytest_quantcheck.models.file_checks import CHECKS
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.loading import load_files
from pytest_quantcheck.models.source import Source

from .gguf_files import write_gguf
from .releases import RELEASES, needs, write

_heard: list[set[str]] = []


def _hear(event, arguments):
    if _heard and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _heard[-1].add(os.path.realpath(os.fsdecode(arguments[0])))


@pytest.fixture
def opened():
    """The real paths of all files that are opened in a test; safetensors maps its files beside Python's knowledge."""
    if not hasattr(sys, "_quantcheck_hears"):
        sys.addaudithook(_hear)  # cannot be removed again
        sys._quantcheck_hears = True
    _heard.append(set())
    yield _heard[-1]
    _heard.pop()


@pytest.fixture
def mapped(monkeypatch):
    """The real paths of all files that safetensors opens."""
    import safetensors
    import transformers.modeling_utils

    found = set()

    def listening(path, *arguments, **named):
        found.add(os.path.realpath(path))
        return real(path, *arguments, **named)

    real = safetensors.safe_open
    monkeypatch.setattr(transformers.modeling_utils, "safe_open", listening)
    return found


def check(files, load_as, opened, mapped):
    """Check and load a model; what is opened then where its files are is what is listed."""
    for one in CHECKS:
        if one.applies(files, load_as):
            one.run(files, load_as)
    listed = {os.path.realpath(path) for path in files.paths}
    opened.clear()
    load_files(files, load_as).close()
    place = f"{files.folder.resolve()}{os.sep}"
    assert {path for path in opened | mapped if path.startswith(place)} == listed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [needs(name) for name in RELEASES])
def test_released_checkpoint(name, bf16_checkpoint, tmp_path, opened, mapped):
    """Neither more nor less, with files beside it that look like its own."""
    write(RELEASES[name], bf16_checkpoint, tmp_path / "model")
    for beside in ("notes.txt", "chat_template.json", "pytorch_model.bin", "processor_config.json"):
        (tmp_path / "model" / beside).write_text("{}")
    check(resolve_files(Source(str(tmp_path / "model"), device="cpu")), "released", opened, mapped)


@pytest.mark.parametrize("load_as", ["reference", "int8", "nf4"])
def test_reference(load_as, bf16_checkpoint, opened, mapped):
    """At every bit-width."""
    check(resolve_files(Source(str(bf16_checkpoint), device="cpu")), load_as, opened, mapped)


def test_gguf_file(bf16_checkpoint, tmp_path, opened, mapped):
    """A tokenizer or an adapter beside the file has no part in it."""
    path = write_gguf(Path(bf16_checkpoint), tmp_path / "model.gguf", "Q8_0")
    for beside in ("tokenizer_config.json", "tokenizer.json", "config.json", "adapter_config.json"):
        (tmp_path / beside).write_text("no JSON")
    check(resolve_files(Source(str(path), device="cpu")), "released", opened, mapped)

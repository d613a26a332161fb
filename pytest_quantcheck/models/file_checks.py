"""The checks of a model's files, in one order for every run; none reads a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.checksums import has_sums, verify
from pytest_quantcheck.models.configuration import check_configuration, check_tensors
from pytest_quantcheck.models.files import CHECK_THE_FILES, ModelFiles
from pytest_quantcheck.models.pretrained import choose_device, library_folder, read_tokenizer
from pytest_quantcheck.models.released import check_contents, check_header, recognise
from pytest_quantcheck.models.source import quantization_of, quantized_already
from pytest_quantcheck.records import RELEASED

_FEWEST_TOKENS = 16


class Check(NamedTuple):
    """One check of a model's files.

    `title`: how a dry run calls it. `reads`: what it takes: the names and small files, the headers of the weights, or
    every byte. `applies(files, load_as)`: whether there is something to check. `run(files, load_as)`: raises
    ModelError. `after`: titles of checks without which it makes no sense.
    """

    title: str
    reads: Literal["names", "headers", "bytes"]
    applies: Callable[[ModelFiles, str], bool]
    run: Callable[[ModelFiles, str], object]
    after: tuple[str, ...] = ()


def _check_precision(files: ModelFiles, _load_as: str) -> None:
    """Refuse a reference whose configuration says that it is quantized."""
    if quantization_of(files.config):
        raise quantized_already(files.source)


def _check_format(files: ModelFiles, _load_as: str) -> None:
    """Refuse a candidate that is not quantized, or cannot be loaded here."""
    recognise(files).require(choose_device(files.source.device))


def _check_tokenizer(files: ModelFiles, load_as: str) -> None:
    """Refuse a missing or damaged tokenizer; some classes make an empty one where the files are missing."""
    with library_folder(files, load_as) as folder:
        n_tokens = len(read_tokenizer(folder, files).get_vocab())
    if n_tokens < _FEWEST_TOKENS:
        raise ModelError(
            f"{files.name}: expected a tokenizer, found {n_tokens} tokens, as without its files. {CHECK_THE_FILES}"
        )


def _check_headers(files: ModelFiles, _load_as: str) -> None:
    """Refuse damaged files of weights, and those that contradict the index."""
    for name, held in files.headers.items():
        expected = {tensor for tensor, file in files.index.items() if file == name}
        if lacking := sorted(expected.difference(held)):
            raise ModelError(
                f"{files.folder / name} lacks {lacking[0]}, which {files.entry} says is in it. {CHECK_THE_FILES}"
            )
    for tensor, (first, second) in _held_twice(files.headers):
        raise ModelError(
            f"{files.folder / first} and {second} beside it both hold {tensor}, and programs differ in which they "
            f"take. {CHECK_THE_FILES}"
        )


def _held_twice(headers: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the tensors that two files hold, with the files."""
    first: dict[str, str] = {}
    for name, held in headers.items():
        for tensor in held:
            if tensor in first:
                yield tensor, (first[tensor], name)
            first[tensor] = name


def _is_directory(files: ModelFiles, _load_as: str) -> bool:
    return not files.is_one_file


def _is_reference(files: ModelFiles, load_as: str) -> bool:
    return load_as != RELEASED and not files.is_one_file


def _has_headers(files: ModelFiles, _load_as: str) -> bool:
    return not (files.is_one_file or files.is_pickled)  # a GGUF file's header is its format's


def _is_released(_files: ModelFiles, load_as: str) -> bool:
    return load_as == RELEASED


def _is_one_file_reference(files: ModelFiles, load_as: str) -> bool:
    return load_as != RELEASED and files.is_one_file


CHECKS: tuple[Check, ...] = (
    Check("checksums", "bytes", lambda files, _: has_sums(files), lambda files, _: verify(files)),
    Check("precision", "names", _is_reference, _check_precision),
    Check("format", "names", _is_released, _check_format),
    Check("header", "headers", _is_one_file_reference, lambda files, _: check_header(files)),
    Check("configuration", "names", _is_directory, check_configuration, after=("precision", "format")),
    Check("tokenizer", "names", _is_directory, _check_tokenizer, after=("configuration",)),
    Check("headers of the weights", "headers", _has_headers, _check_headers),
    Check(
        "configuration against the weights",
        "headers",
        _has_headers,
        check_tensors,
        after=("configuration", "tokenizer", "headers of the weights"),
    ),
    Check(
        "parts of quantized weights",
        "headers",
        lambda files, load_as: _is_released(files, load_as) and _has_headers(files, load_as),
        lambda files, _: check_contents(files, recognise(files)),
        after=("format", "headers of the weights"),
    ),
)
"""Every check, in order. Checksums come first: what differs from them is not looked at further."""

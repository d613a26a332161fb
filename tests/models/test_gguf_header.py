"""A GGUF file that is not whole is refused before anything is loaded, in one sentence that names it."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.formats.gguf_header import GgufTensor, Header, read_header

AGAIN = "copy, download or convert it again"


def write(path, *, alignment=None, **metadata):
    """A file of three tensors, F32, Q4_1 and Q8_0, whose header fills most of its 1.7 kB."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"word{number}" for number in range(40)])
    writer.add_token_types([1] * 40)
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, value in metadata.items():
        writer.add_uint32(key.replace("_", "."), value)
    matrix = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    writer.add_tensor("norm.weight", matrix[0, :5].copy())
    for name in ("Q4_1", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole file."""
    return write(tmp_path_factory.mktemp("whole") / "whole.gguf")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Writes bytes into a file, the same each time."""
    path = tmp_path_factory.mktemp("damaged") / "damaged.gguf"

    def write_bytes(data):
        path.write_bytes(data)
        return path

    return write_bytes


def test_header_says_what_the_file_holds(whole):
    """Types, shapes and places are those that the gguf package reads."""
    header = read_header(whole)
    reader = gguf.GGUFReader(whole)
    assert header.tensors == {
        tensor.name: GgufTensor(tensor.tensor_type.name, tuple(tensor.shape), tensor.data_offset - reader.data_offset)
        for tensor in reader.tensors
    }
    assert [tensor.size for tensor in header.tensors.values()] == [tensor.n_bytes for tensor in reader.tensors]
    assert header.data_start == reader.data_offset
    assert (header.architecture, header.weights) == ("llama", {"Q4_1": 128, "Q8_0": 128, "F32": 5})


def test_format_is_the_commonest_quantized_type():
    """By weights, not by tensors, and however many weights are not quantized."""
    few = {f"few{number}": GgufTensor("Q8_0", (32,), 0) for number in range(3)}
    plain = {"plain": GgufTensor("F16", (4096,), 0)}
    assert Header({}, few | plain | {"many": GgufTensor("Q4_1", (64, 64), 0)}, 0).format == "gguf Q4_1"
    assert Header({}, plain, 0).format is None


def test_file_cut_anywhere_is_refused(whole, damaged):
    """At every single byte, the error names the file and the next step."""
    data = whole.read_bytes()
    padding = len(data) - max(tensor.data_offset + tensor.n_bytes for tensor in gguf.GGUFReader(whole).tensors)
    for length in range(len(data) - padding):
        with pytest.raises(ModelError, match=rf"damaged\.gguf.*{AGAIN}"):
            read_header(damaged(data[:length]))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bit_in_the_header_ends_in_one_error_or_is_read(whole, damaged, data):
    """Wherever it is, reading ends: no length is believed that the file does not bear out."""
    content = bytearray(whole.read_bytes())
    position = data.draw(st.integers(0, gguf.GGUFReader(whole).data_offset - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read_header(damaged(content))
    except ModelError as error:
        assert "damaged.gguf" in str(error)  # noqa: PT017 - most flips are an error, some change a name


def test_another_kind_of_file_is_refused(damaged):
    """A safetensors file by a wrong name, for example."""
    with pytest.raises(ModelError, match=r"damaged\.gguf is not a GGUF file: it begins with b'\\x08"):
        read_header(damaged(struct.pack("<Q", 8) + b"{}      "))


def test_big_endian_file_is_refused(whole, damaged):
    """By its version, which reads as a huge number."""
    data = whole.read_bytes()
    with pytest.raises(ModelError, match="is of GGUF version 50331648, expected 2 or 3, little-endian"):
        read_header(damaged(data[:4] + data[4:8][::-1] + data[8:]))


@pytest.mark.parametrize("count", [2, 4, 2**60])
def test_wrong_number_of_tensors_is_refused(whole, damaged, count):
    """Fewer than there are would shift all weights, more cannot be."""
    data = whole.read_bytes()
    with pytest.raises(ModelError, match=rf"damaged\.gguf.*{AGAIN}"):
        read_header(damaged(data[:8] + struct.pack("<Q", count) + data[16:]))


def test_longer_file_than_its_header_promises_is_refused(whole, damaged):
    """Something was left of another file, or the header lost a tensor."""
    with pytest.raises(ModelError, match="bytes, and its header says"):
        read_header(damaged(whole.read_bytes() + bytes(64)))


def test_part_of_a_split_file_names_the_tool(tmp_path):
    """Its weights are in several files."""
    with pytest.raises(ModelError, match=r"one of 3 parts; put them together with llama-gguf-split --merge"):
        read_header(write(tmp_path / "part.gguf", split_count=3))


def test_own_alignment_is_heeded(tmp_path):
    """A file may align its tensors otherwise than to 32 bytes, but not to nothing."""
    header = read_header(write(tmp_path / "wide.gguf", alignment=128))
    assert [tensor.offset for tensor in header.tensors.values()] == [0, 128, 256]
    with pytest.raises(ModelError, match=r"general\.alignment is 0"):
        read_header(write(tmp_path / "none.gguf", general_alignment=0))


def test_unreadable_file_is_an_error(tmp_path):
    """A directory by that name, for example."""
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ModelError, match=r"folder\.gguf cannot be read: Is a directory"):
        read_header(tmp_path / "folder.gguf")

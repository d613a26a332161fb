"""Formats of quantized weights: one file each, collected in one tuple."""

from pytest_quantcheck.models.formats.bitsandbytes import BITSANDBYTES
from pytest_quantcheck.models.formats.compressed_tensors import COMPRESSED_TENSORS
from pytest_quantcheck.models.formats.format import Format
from pytest_quantcheck.models.formats.fp8 import FBGEMM_FP8, FP8
from pytest_quantcheck.models.formats.gguf import GGUF
from pytest_quantcheck.models.formats.gptq import AWQ, GPTQ
from pytest_quantcheck.models.formats.torchao import TORCHAO

FORMATS: tuple[Format, ...] = (BITSANDBYTES, TORCHAO, COMPRESSED_TENSORS, FP8, FBGEMM_FP8, GPTQ, AWQ, GGUF)
"""Every format; the first that matches a checkpoint is its format."""

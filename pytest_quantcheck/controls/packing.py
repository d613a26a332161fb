"""A weight-only quantizer: round to nearest, with a scale and a zero point for each group of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

GROUP = 64
"""Inputs that share a scale. The last group of a row has fewer where the row is not a multiple."""

_TINY = 1e-12
"""The scale of a group of zeros; any positive number would do."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight as integers: it is `(codes - zeros) * scales`.

    `codes` (out, groups, 64), `scales` and `zeros` (out, groups, 1), all float32; `inputs`: columns of the
    weight, because the last group may be padded.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    inputs: int

    def weight(self) -> torch.Tensor:
        """Unpack the weight that the integers stand for, (out, inputs) float32."""
        return ((self.codes - self.zeros) * self.scales).flatten(1)[:, : self.inputs]


def pack(weight: torch.Tensor, bits: int, *, symmetric: bool = True) -> Packed:
    """Round a weight to the nearest points of a grid.

    Args:
        weight: (out, inputs), any float dtype.
        bits: of each code, 2 or more.
        symmetric: codes from -m to m, m = 2 ** (bits - 1) - 1; zero points are 0, and m is the code of the group's
            largest magnitude. Otherwise codes from 0 to 2 ** bits - 1 cover the group's range, extended to zero, and
            the zero point is the code of zero.
    """
    filled = nn.functional.pad(weight.float(), (0, -weight.shape[1] % GROUP))
    groups = filled.reshape(len(weight), -1, GROUP)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        scales = (groups.abs().amax(dim=-1, keepdim=True) / most).clamp(min=_TINY)
        codes, zeros = (groups / scales).round().clamp(-most, most), torch.zeros_like(scales)
    else:
        most = 2**bits - 1
        low, high = (extreme(groups, dim=-1, keepdim=True) for extreme in (torch.amin, torch.amax))
        scales = ((high.clamp(min=0) - low.clamp(max=0)) / most).clamp(min=_TINY)
        zeros = (-low.clamp(max=0) / scales).round()
        codes = ((groups / scales).round() + zeros).clamp(0, most)
    return Packed(codes, scales, zeros, weight.shape[1])

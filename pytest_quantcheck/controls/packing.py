"""A weight-only quantizer: round to nearest on a uniform grid, a scale and a zero point for each group of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

GROUP = 64
"""Inputs that share a scale. Where they do not divide a row, its last group is smaller."""

_TINY = 1e-12
"""The scale of a group of zeros; any positive number serves."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight as integers: it is `(codes - zeros) * scales`.

    `codes` (out, groups, 64), `scales` and `zeros` (out, groups, 1), all float32; `inputs`: columns of the
    weight, as the last group may be filled up.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    inputs: int

    def weight(self) -> torch.Tensor:
        """The weight that this stands for, (out, inputs) float32."""
        return ((self.codes - self.zeros) * self.scales).flatten(1)[:, : self.inputs]


def pack(weight: torch.Tensor, bits: int, *, symmetric: bool = True) -> Packed:
    """Round a weight to the nearest points of a grid.

    Args:
        weight: (out, inputs), any float dtype.
        bits: of each code, 2 or more.
        symmetric: codes from -m to m, m = 2 ** (bits - 1) - 1, zero points 0 and the group's largest magnitude at
            m. Otherwise codes from 0 to 2 ** bits - 1 reach from the group's least to its greatest value, zero
            included, and the zero point is the code of zero.
    """
    filled = nn.functional.pad(weight.float(), (0, -weight.shape[1] % GROUP))
    groups = filled.reshape(len(weight), -1, GROUP)
    if symmetric:
        most = 2 ** (bits - 1) - 1
        scales = (groups.abs().amax(dim=-1, keepdim=True) / most).clamp(min=_TINY)
        codes, zeros = (groups / scales).round().clamp(-most, most), torch.zeros_like(scales)
    else:
        most = 2**bits - 1
        low, high = (reach(groups, dim=-1, keepdim=True) for reach in (torch.amin, torch.amax))
        scales = ((high.clamp(min=0) - low.clamp(max=0)) / most).clamp(min=_TINY)
        zeros = (-low.clamp(max=0) / scales).round()
        codes = ((groups / scales).round() + zeros).clamp(0, most)
    return Packed(codes, scales, zeros, weight.shape[1])

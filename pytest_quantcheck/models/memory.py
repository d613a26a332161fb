"""How much memory a device has free."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def usable_memory(device: torch.device) -> int:
    """Count the bytes that weights may take on a device: nine tenths of what is free there."""
    return free_memory(device) * 9 // 10


def free_memory(device: torch.device) -> int:
    """Count the bytes that this process may still take on a device.

    On a CPU: what the machine can give, or what is left of a container's limit if that is less. On a GPU: what is free,
    and what torch holds without using it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available: int = psutil.virtual_memory().available
    return min([available, *_left_in_container()])


def _left_in_container() -> list[int]:
    """Count what is left of a container's limit; the pages of files are given up when memory is short."""
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return [int(limit) - int(used) + int(counts["inactive_file"])] if limit.isdecimal() else []
    except (OSError, ValueError, KeyError):
        return []

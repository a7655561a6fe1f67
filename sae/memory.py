"""How much memory a device has."""

from __future__ import annotations

import os

import torch


def memory_of(device: str) -> int:
    """Bytes of memory of a GPU, or of the machine."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

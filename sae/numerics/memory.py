"""How much memory a device has, how much of it this process holds, and the most it held."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def memory_of(device: str) -> int:
    """Bytes of memory of a GPU, or of the machine."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def held_bytes(device: str) -> int:
    """Bytes that the process has resident, or that torch has allocated on the GPU. Peaks are counted from here.

    What was freed and not yet handed back to the system would hide as much of what comes; it is handed back first.
    """
    gc.collect(1)  # the young generations: what was just dropped; all three take a quarter of a second, once per step
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, AttributeError):  # Linux with glibc; elsewhere small work shows too small a peak
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    return _status("VmRSS")


def peak_bytes(device: str) -> int:
    """The most bytes that were held at any moment since :func:`held_bytes`."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _status("VmHWM")


def _status(field: str) -> int:
    """A field of the process's status in bytes. Linux has both; elsewhere there is only the peak."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024

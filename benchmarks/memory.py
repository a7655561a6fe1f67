"""How much memory this process holds, and the most it ever held."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

MB = 2**20


def held_mb(device: str) -> float:
    """Resident memory of the process, or what torch has allocated on the GPU. Peaks are counted from here.

    What was freed and not yet handed back to the system would hide as much of what comes; it is handed back first.
    """
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / MB
    with suppress(OSError, AttributeError):  # Linux with glibc; elsewhere small runs show too small a peak
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    return _status("VmRSS")


def peak_mb(device: str) -> float:
    """The most that was held at any moment since `held_mb`."""
    return torch.cuda.max_memory_allocated(device) / MB if device.startswith("cuda") else _status("VmHWM")


def _status(field: str) -> float:
    """A field of the process's status in MB. Linux has both; elsewhere there is only the peak."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / MB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else peak / 1024

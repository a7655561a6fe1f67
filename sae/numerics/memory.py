"""How much memory a device has, how much of it this process holds, and the peak.

On Linux all three are exact. Elsewhere the operating system gives the peak since the process started, not what is held
now, so :func:`held_bytes` returns that peak and the difference of the two functions is too small for small work.
Windows is asked through psutil, which TransformerLens installs. Without psutil the machine has
:data:`ASSUMED_MACHINE_BYTES` and the process holds 0.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sae.registry import UserError

ASSUMED_MACHINE_BYTES = 8 * 2**30
"""The memory of a machine whose memory cannot be known."""


def memory_of(device: str) -> int:
    """Bytes of memory of a GPU, or of the machine for any other device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    psutil = _psutil()
    return ASSUMED_MACHINE_BYTES if psutil is None else int(psutil.virtual_memory().total)


def check_memory(setting: str, needed: int, device: str = "cpu") -> None:
    """Raises `UserError` where a setting, such as ``n_rows = 10``, needs more bytes than the device has in all.

    Called before the work, with a lower bound: a machine that has too little would swap for hours, or end the process
    without a word.
    """
    available = memory_of(device)
    if needed > available:
        raise UserError(
            f"{setting}: not enough memory: needs at least {needed / 1e9:.1f} GB, the {_machine(device)} has "
            f"{available / 1e9:.1f} GB; lower it"
        )


def _machine(device: str) -> str:
    return "GPU" if device.startswith("cuda") else "machine"


def held_bytes(device: str) -> int:
    """Bytes that are resident in the process, or that torch has allocated on the GPU. Restarts the peak.

    Freed memory that the allocator has kept would hide later allocations, so it is returned to the system first.
    """
    gc.collect(1)  # the young generations hold what was just dropped; all three would take 0.25 s at every step
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, AttributeError):  # only Linux with glibc has these
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to what is held now
    return _process_bytes("VmRSS")


def peak_bytes(device: str) -> int:
    """The most bytes that were held at any moment since the last call of :func:`held_bytes`."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _process_bytes("VmHWM")


def _process_bytes(field: str) -> int:
    """A field of Linux's ``/proc/self/status`` in bytes; elsewhere the peak of the process, 0 if it cannot be known."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        psutil = _psutil()
        memory: Any = None if psutil is None else psutil.Process().memory_info()
        return 0 if memory is None else int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _psutil() -> Any:
    """The package psutil, or None if it is not installed."""
    try:
        import psutil
    except ImportError:
        return None
    return psutil

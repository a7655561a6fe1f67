"""What the device is and can do: versions, rates of matrix products, bandwidth of copies."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.clock import mean_seconds
from benchmarks.roofline import tf32
from sae.numerics.memory import memory_of

SIDE, SMALL_SIDE = 8192, 256
"""Rows and columns of the matrices that are multiplied."""
COPIED, SMALL_COPIED = 1 << 30, 1 << 22
"""Bytes that are copied."""


def versions(device: str) -> dict[str, Any]:
    """Names and versions of what is used, and the memory of the device."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for package in ("numpy", "triton", "transformer_lens", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["memory_gb"] = memory_of(device) / 1e9
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
        }
    return found


def products(device: str, small: bool) -> dict[str, Any]:
    """TFLOP/s of square products in each precision; None where the device has no such product."""
    side = SMALL_SIDE if small else SIDE
    flops = 2.0 * side**3
    rates: dict[str, float | None] = {}
    for name, dtype, in_tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        with tf32(in_tf32):
            taken = mean_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, 0.1 if small else 1.0)
        rates[name] = flops / taken / 1e12
    rates["fp8"] = _fp8(device, side, flops)
    return {"side": side, **{f"{name}_tflops": rate for name, rate in rates.items()}}


def _fp8(device: str, side: int, flops: float) -> float | None:
    if not device.startswith("cuda") or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    a = torch.randn(side, side, device=device).to(torch.float8_e4m3fn)
    b = torch.randn(side, side, device=device).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=device)
    return flops / mean_seconds(lambda: torch._scaled_mm(a, b, one, one, out_dtype=torch.bfloat16), device) / 1e12


def copies(device: str, small: bool) -> dict[str, Any]:
    """GB/s of copies within the device (read and written bytes), to it and from it."""
    n = SMALL_COPIED if small else COPIED
    host, there = torch.empty(n, dtype=torch.uint8), torch.empty(n, dtype=torch.uint8, device=device)
    if device.startswith("cuda"):
        host = host.pin_memory()
    other = torch.empty_like(there)
    at_least = 0.05 if small else 0.5
    return {
        "bytes": n,
        "within_gb_s": 2 * n / mean_seconds(lambda: other.copy_(there), device, at_least) / 1e9,
        "to_gb_s": n / mean_seconds(lambda: there.copy_(host, non_blocking=True), device, at_least) / 1e9,
        "from_gb_s": n / mean_seconds(lambda: host.copy_(there, non_blocking=True), device, at_least) / 1e9,
    }

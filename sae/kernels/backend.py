"""Which kernels a machine has."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from sae.kernels import Kernels


def kernels_for(weights: Tensor) -> Kernels:
    """The fastest kernels that there are for parameters on this device and of this precision."""
    if weights.device.type == "cpu" and weights.dtype in (torch.float32, torch.float64) and _has("numba"):
        from sae.kernels.cpu import Numba

        return Numba()
    if weights.device.type == "cuda" and weights.dtype == torch.float32 and _has("triton"):
        from sae.kernels.gpu import Triton

        return Triton()
    from sae.kernels.reference import Reference

    return Reference()


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None

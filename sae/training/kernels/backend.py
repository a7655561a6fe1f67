"""Chooses the kernels for a machine."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from sae.numerics.seeds import HAS_NUMBA
from sae.training.kernels import Kernels


def kernels_for(weights: Tensor) -> Kernels:
    """The fastest kernels for parameters on this device and of this precision."""
    if weights.device.type == "cpu" and weights.dtype in (torch.float32, torch.float64) and HAS_NUMBA:
        from sae.training.kernels.cpu import Numba

        return Numba()
    if weights.device.type == "cuda" and weights.dtype == torch.float32 and find_spec("triton") is not None:
        from sae.training.kernels.gpu import Triton

        return Triton()
    from sae.training.kernels.reference import Reference

    return Reference()

"""The dense roofline: the time that the matrix products of one training step take on this machine.

A dense step has five products of ``2 batch d_in n_latents`` FLOPs in three shapes:

    encode   x W_enc^T        [batch, d_in] [d_in, n_latents]          once, and once for the gradient of the codes
    decode   z W_dec          [batch, n_latents] [n_latents, d_in]     once
    weights  z^T r            [n_latents, batch] [batch, d_in]         twice, for both weight matrices

Each shape is timed with torch's own product, into a reused buffer, and the roofline is
``2 encode + decode + 2 weights``. Nothing else is counted: no bias, no activation, no optimizer.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.clock import mean_seconds


@contextmanager
def tf32(allowed: bool) -> Generator[None]:
    """Products of float32 within the block are in TF32, which only a GPU has, or in full precision."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@dataclass
class Roofline:
    """Measures the products of one step of `n_members` dictionaries. Buffers are allocated at the first measurement."""

    d_in: int
    """Width of the activations."""
    n_latents: int
    """Width of each dictionary."""
    batch: int
    """Samples per batch."""
    dtype: str = "float32"
    """Data type of the products."""
    device: str = "cpu"
    """Device of the products."""
    n_members: int = 1
    """Number of dictionaries; more than one are multiplied by ``torch.bmm``."""
    at_least: float = 0.1
    """Seconds to measure each shape for."""
    measured: list[float] = field(default_factory=list[float])
    """All measurements so far, in seconds per step."""
    _buffers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def flops(self) -> float:
        """FLOPs of the five products."""
        return 5 * 2.0 * self.n_members * self.batch * self.d_in * self.n_latents

    def seconds(self) -> float:
        """Measures the five products again, adds the result to `measured` and returns it."""
        x, z, W = self._tensors()
        residual = torch.empty_like(x)
        codes = torch.empty_like(z)
        gradient = torch.empty_like(W)
        product = torch.bmm if self.n_members > 1 else torch.mm

        def timed(a: Tensor, b: Tensor, out: Tensor) -> float:
            return mean_seconds(lambda: product(a, b, out=out), self.device, self.at_least)

        with torch.no_grad():
            encode = timed(x, W.mT, codes)
            decode = timed(z, W, residual)
            weights = timed(z.mT, x, gradient)
        self.measured.append(2 * encode + decode + 2 * weights)
        return self.measured[-1]

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        if not self._buffers:
            draw = torch.Generator().manual_seed(0)
            lead = (self.n_members,) if self.n_members > 1 else ()
            shapes = {
                "x": (*lead, self.batch, self.d_in),
                "z": (*lead, self.batch, self.n_latents),
                "W": (*lead, self.n_latents, self.d_in),
            }
            self._buffers = {
                name: torch.randn(shape, generator=draw).to(self.device, getattr(torch, self.dtype))
                for name, shape in shapes.items()
            }
        return self._buffers["x"], self._buffers["z"], self._buffers["W"]

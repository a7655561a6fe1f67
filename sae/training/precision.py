"""Which precision of the encoder's product takes less time on this machine: float32 or the screen in bfloat16.

On a CPU without bfloat16 products of its own the screen takes several times as long as float32; with them it saves
time on wide dictionaries. No list of processors says which holds for a shape, so the search for active latents is timed
both ways, by the kernels of the training step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from sae.architecture import Positive
from sae.training.engine import Precision
from sae.training.kernels import Rounded
from sae.training.kernels.backend import kernels_for

LEAST_GAIN = 1.1
"""The screen is taken where float32 needs at least this many times its time; smaller differences are noise."""
_MOST_OPERATIONS = 1 << 32
"""Multiplications and additions of one timed product, a twentieth of a second on one core."""
_MOST_ROWS = 512
"""The rows of a timed product; the kernels process as many at a time."""
_ROUNDS = 3
"""Each way is timed so many times in turn, and its shortest time counts: other work on the machine only adds."""
_OFFSET = -2.5
"""What is added to products of unit variance: one latent in 160 is active, as in a trained dictionary."""


@dataclass(frozen=True)
class EncoderTiming:
    """How the two ways compared for one shape."""

    d_in: int
    """Width of the activations."""
    n_latents: int
    """Width of the dictionary."""
    batch: int
    """Samples per step."""
    device: str
    """Device on which they were timed."""
    threads: int
    """Threads of torch."""
    gain: float
    """The time of float32 over that of the screen: above 1 the screen is faster."""

    @property
    def faster(self) -> Precision:
        """The way that ``precision = "auto"`` takes."""
        return "screen" if self.gain >= LEAST_GAIN else "float32"

    def __str__(self) -> str:
        """The result in words, such as ``2.3 times as fast in bfloat16 as in float32 (768 -> 24,576, ...)``."""
        ratio = f"{self.gain:.2g} times as fast" if self.gain >= 1 else f"{1 / self.gain:.2g} times as slow"
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if self.device == "cpu" else ""
        shape = f"{self.d_in:,} -> {self.n_latents:,}, batch {self.batch:,}"
        return f"{ratio} in bfloat16 as in float32 ({shape}, {self.device}{threads})"


def time_encoder(d_in: int, n_latents: int, batch: int, device: str = "cpu") -> EncoderTiming:
    """Times the search for active latents both ways, in a second or less after the kernels are compiled.

    The result is kept for the process. A wide dictionary is timed on a part of its latents, and a large batch on a part
    of its rows: the ratio hardly depends on either.
    """
    return _timing(d_in, n_latents, batch, device, torch.get_num_threads())


@lru_cache(maxsize=256)
def _timing(d_in: int, n_latents: int, batch: int, device: str, threads: int) -> EncoderTiming:
    rows = max(1, min(batch, _MOST_ROWS))
    latents = max(1, min(n_latents, max(64, _MOST_OPERATIONS // (2 * rows * d_in))))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, d_in, generator=draw).to(device)
    W_enc = (torch.randn(latents, d_in, generator=draw) / d_in**0.5).to(device)
    offset = torch.full((latents,), _OFFSET, device=device)
    kernels, rounded = kernels_for(W_enc), Rounded.of(W_enc, exact=True)

    def seconds(how: Rounded | None) -> float:
        _settle(device)
        begin = time.perf_counter()
        kernels.encode(x, W_enc, offset, Positive(), how)
        _settle(device)
        return time.perf_counter() - begin

    for how in (None, rounded):  # compiles what is not compiled yet
        seconds(how)
    pairs = [(seconds(None), seconds(rounded)) for _ in range(_ROUNDS)]
    exact, screened = (min(times) for times in zip(*pairs, strict=True))
    return EncoderTiming(d_in, n_latents, batch, device, threads, exact / max(screened, 1e-9))


def _settle(device: str) -> None:
    """Waits until a GPU has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def slower_warning(precision: str, timing: EncoderTiming) -> str | None:
    """One line where a rounded product was asked for and takes longer than float32; None where it does not."""
    if precision not in ("screen", "bfloat16") or timing.gain * LEAST_GAIN > 1:
        return None
    return f"train.precision = {precision!r}: the encoder's product is {timing}; 'float32' or 'auto' takes less time"

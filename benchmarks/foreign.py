"""Another library's dictionary as one of ours, to be scored like ours: read by its own encoder, and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary

ROWS = 1000
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Foreign(Dictionary):
    """Codes are what the library's own function gives; `W_enc` and `b_enc` are read by nobody and stay zero."""

    kind: ClassVar[str] = "foreign"

    read: Callable[[Tensor], Tensor]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        with torch.no_grad():
            return self.read(x)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


@torch.no_grad()
def adopt(model: Any, n_latents: int, x: Float[Tensor, "rows d_in"]) -> Foreign:
    """The dictionary of a `model` with ``encode``, ``decode`` and a forward pass of both.

    Every decoder is affine: ``b_dec = decode(0)`` and ``W_dec[j] = decode(e_j) - b_dec`` are the directions that a
    latent of value one adds. On the first rows of `x` what comes back must be what the model gives back itself, to
    1e-5 of the rows' norm.
    """
    b_dec = model.decode(torch.zeros(1, n_latents))[0]
    W_dec = model.decode(torch.eye(n_latents)) - b_dec
    blank = torch.zeros_like(W_dec.T), W_dec, W_dec.new_zeros(n_latents), b_dec
    d = Foreign(*blank, read=model.encode)
    x = x[:ROWS]
    off = float((d.decode(d.encode(x)) - model(x)).norm(dim=-1).max() / x.norm(dim=-1).mean())
    if off > TOLERANCE:
        raise RuntimeError(f"{type(model).__name__}: the reconstruction differs from the library's own by {off:.2g}")
    return d

"""Wraps another library's dictionary as one of ours, with its own encoder, so that it can be scored like ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary

N_CHECKED = 1000
"""Number of samples on which the wrapped dictionary is compared with the original."""
TOLERANCE = 1e-5
"""Largest accepted difference of the reconstructions, relative to the mean norm of the samples."""


@dataclass(frozen=True, eq=False)
class Foreign(Dictionary):
    """A dictionary with the encoder function of another library. `W_enc` and `b_enc` are zero and unused."""

    kind: ClassVar[str] = "foreign"

    encoder: Callable[[Tensor], Tensor]
    """The encoder of the other library: activations in, codes out."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        with torch.no_grad():
            return self.encoder(x)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


@torch.no_grad()
def adopt(model: Any, n_latents: int, x: Float[Tensor, "rows d_in"]) -> Foreign:
    """The dictionary of a `model` that has ``encode``, ``decode``, and both as its forward pass.

    Every decoder is affine: ``b_dec = decode(0)`` and ``W_dec[j] = decode(e_j) - b_dec``, the direction that latent j
    adds at value one.

    Raises `RuntimeError` if, on the first samples of `x`, the reconstruction differs from the model's own by more than
    1e-5 of the mean norm.
    """
    b_dec = model.decode(torch.zeros(1, n_latents))[0]
    W_dec = model.decode(torch.eye(n_latents)) - b_dec
    tensors = torch.zeros_like(W_dec.T), W_dec, W_dec.new_zeros(n_latents), b_dec
    d = Foreign(*tensors, encoder=model.encode)
    x = x[:N_CHECKED]
    difference = float((d.decode(d.encode(x)) - model(x)).norm(dim=-1).max() / x.norm(dim=-1).mean())
    if difference > TOLERANCE:
        raise RuntimeError(
            f"{type(model).__name__}: the reconstruction differs from the library's own by {difference:.2g}"
        )
    return d

"""One layer in a third-party parametrisation, converted exactly to that of a kind of this library.

    p = (x - b_dec) W_enc + b_enc,    x_hat = z W_dec + b_dec

Every conversion changes the tensors and keeps the function that they compute. Large tensors are changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.dictionaries.standardised import Standardised
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.registry import kinds

_AT_ONCE = 2**21
"""Elements of a matrix that are held in double precision at a time."""
PER_LATENT = ("threshold", "gain", "shift")
"""Fields of :class:`Layer` that hold per-latent parameters of some kinds."""


@dataclass
class Layer:
    """The tensors of a one-layer dictionary. Methods that convert it change it and return it."""

    W_enc: Tensor
    """Encoder, ``[d_in, n_latents]``."""
    W_dec: Tensor
    """Decoder, ``[n_latents, d_out]``."""
    b_enc: Tensor
    """Encoder bias, ``[n_latents]``."""
    b_dec: Tensor
    """Decoder bias, ``[d_out]``."""
    threshold: Tensor | None = None
    """Thresholds, one per latent or one for all, of kinds that have them."""
    gain: Tensor | None = None
    """Gain of each latent's magnitude in a `gated` dictionary."""
    shift: Tensor | None = None
    """Shift of each latent's magnitude in a `gated` dictionary."""

    def to_centred(self) -> Layer:
        """From an encoder of x to one of x - b_dec: ``x W + b = (x - b_dec) W + (b + b_dec W)``."""
        self.b_enc = self.b_enc + precise_product(self.b_dec, self.W_enc)
        return self

    def to_uncentred(self) -> Layer:
        """From an encoder of x - b_dec to one of x, for kinds that encode x."""
        self.b_enc = self.b_enc - precise_product(self.b_dec, self.W_enc)
        return self

    def fold_decoder_norms(self) -> Layer:
        """For selections by ``p ||W_dec[j]||``: moves the norms of the decoder rows into the encoder."""
        norm = self.W_dec.norm(dim=-1)
        return self.scale_codes(torch.where(norm > 0, norm, torch.ones_like(norm)))

    def scale_codes(self, factor: Tensor) -> Layer:
        """Multiplies the codes by positive factors, ``[n_latents]``; thresholds apply to the scaled codes and stay."""
        self.W_enc.mul_(factor)
        self.b_enc = self.b_enc * factor
        self.W_dec.div_(factor[:, None])
        self.shift = None if self.shift is None else self.shift * factor
        return self

    def fold_input_scale(self, s: float) -> Layer:
        """From a dictionary of s x to one of x with the same codes."""
        self.W_enc.mul_(s)
        self.W_dec.div_(s)
        self.b_dec = self.b_dec / s
        return self

    def fold_whitening(self, mean: Tensor, matrix: Tensor, inverse: Tensor) -> Layer:
        """From a dictionary of ``(x - mean) matrix`` to one of x with the same codes."""
        forward, backward = matrix.double(), inverse.double()
        self.W_enc = (forward @ self.W_enc.double()).float()
        self.W_dec = (self.W_dec.double() @ backward).float()
        self.b_dec = (self.b_dec.double() @ backward + mean.double()).float()
        return self

    def split_signs(self) -> Layer:
        """For codes of both signs: latents j and n + j become the positive and the negative part of code j."""
        self.W_enc = torch.cat([self.W_enc, -self.W_enc], 1)
        self.W_dec = torch.cat([self.W_dec, -self.W_dec])
        self.b_enc = torch.cat([self.b_enc, -self.b_enc])
        return self

    def build(self, kind: str, card: Mapping[str, Any], **settings: Any) -> Dictionary:
        """The dictionary of a kind. Thresholds below 0 become 0, since codes are non-negative."""
        parameters = {name: getattr(self, name) for name in PER_LATENT if getattr(self, name) is not None}
        if "threshold" in parameters:
            parameters["threshold"] = parameters["threshold"].expand_as(self.b_enc).clamp_min(0)
        layer = self.W_enc, self.W_dec, self.b_enc, self.b_dec
        return kinds("dictionaries")[kind].KIND(*layer, **parameters, **settings, card=dict(card))

    def standardised(
        self, kind: str, rows: str, card: Mapping[str, Any], eps: float = 1e-5, **settings: Any
    ) -> Dictionary:
        """The dictionary of a kind, on standardised activations; `rows` names the way to standardise."""
        return Standardised.over(self.build(kind, card, **settings), rows, eps)

    def transcoder(
        self, kind: str, card: Mapping[str, Any], W_skip: Tensor | None = None, **settings: Any
    ) -> Dictionary:
        """The dictionary of a transcoder that encodes x; an autoencoder of the kind where that computes the same."""
        if W_skip is None and self.W_enc.shape[0] == self.W_dec.shape[1]:
            return self.to_centred().build(kind, card, **settings)
        parameters = {} if self.threshold is None else {"threshold": self.threshold.expand_as(self.b_enc).clamp_min(0)}
        layer = self.W_enc, self.W_dec, self.b_enc, self.b_dec
        return Transcoder(*layer, **parameters, W_skip=W_skip, reader=kind, reader_settings=settings, card=dict(card))


def precise_product(b: Tensor, W: Tensor) -> Tensor:
    """``b W``, computed in float64 in blocks of rows of W and rounded to the precision of b."""
    total, at_once = torch.zeros(W.shape[1], dtype=torch.float64), max(1, _AT_ONCE // W.shape[1])
    for part, rows in zip(b.split(at_once), W.split(at_once), strict=True):
        total += part.double() @ rows.double()
    return total.to(b.dtype)

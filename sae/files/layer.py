"""One layer as others write it, brought to the form of our kinds by exact folds.

    p = (x - b_dec) W_enc + b_enc,    x_hat = z W_dec + b_dec

Every fold changes what the numbers are, never what they compute. They are made in place: weights are large.
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
"""Numbers of a matrix that are held in double precision at a time."""
OWN = ("threshold", "gain", "shift")


@dataclass
class Layer:
    """The tensors of a dictionary of one layer, and those of its kind; `gain` and `shift` as in `gated`."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None

    def uncentred(self) -> Layer:
        """For encoders that read x and not x - b_dec: ``x W + b = (x - b_dec) W + (b + b_dec W)``."""
        self.b_enc = self.b_enc + product(self.b_dec, self.W_enc)
        return self

    def recentred(self) -> Layer:
        """For encoders that read x - b_dec, where what is built reads x."""
        self.b_enc = self.b_enc - product(self.b_dec, self.W_enc)
        return self

    def unit_rows(self) -> Layer:
        """For selections by ``p ||W_dec[j]||``: the norm of the decoder's row is moved into the encoder, so that codes
        are in units of what they decode to."""
        norm = self.W_dec.norm(dim=-1)
        return self.times(torch.where(norm > 0, norm, torch.ones_like(norm)))

    def times(self, factor: Tensor) -> Layer:
        """Codes, each times a positive factor; a threshold is meant for the codes that come out and stays."""
        self.W_enc.mul_(factor)
        self.b_enc = self.b_enc * factor
        self.W_dec.div_(factor[:, None])
        self.shift = None if self.shift is None else self.shift * factor
        return self

    def scaled(self, s: float) -> Layer:
        """For encoders of s x that decode to s x: codes stay what they were."""
        self.W_enc.mul_(s)
        self.W_dec.div_(s)
        self.b_dec = self.b_dec / s
        return self

    def whitened(self, mean: Tensor, matrix: Tensor, inverse: Tensor) -> Layer:
        """For encoders of ``(x - mean) M`` that decode to the same."""
        forth, back = matrix.double(), inverse.double()
        self.W_enc = (forth @ self.W_enc.double()).float()
        self.W_dec = (self.W_dec.double() @ back).float()
        self.b_dec = (self.b_dec.double() @ back + mean.double()).float()
        return self

    def signed(self) -> Layer:
        """For codes of both signs: latents j and n + j are the positive and the negative part of their code j."""
        self.W_enc = torch.cat([self.W_enc, -self.W_enc], 1)
        self.W_dec = torch.cat([self.W_dec, -self.W_dec])
        self.b_enc = torch.cat([self.b_enc, -self.b_enc])
        return self

    def build(self, kind: str, card: Mapping[str, Any], **settings: Any) -> Dictionary:
        """The dictionary of a kind of ours. Where codes are what exceeds a threshold, negative ones never do."""
        own = {name: getattr(self, name) for name in OWN if getattr(self, name) is not None}
        if "threshold" in own:
            own["threshold"] = own["threshold"].expand_as(self.b_enc).clamp_min(0)
        parts = self.W_enc, self.W_dec, self.b_enc, self.b_dec
        return kinds("sae.dictionaries")[kind].KIND(*parts, **own, **settings, card=dict(card))

    def standardised(
        self, kind: str, rows: str, card: Mapping[str, Any], eps: float = 1e-5, **settings: Any
    ) -> Dictionary:
        """The dictionary of a kind of ours that reads standardised rows."""
        return Standardised.over(self.build(kind, card, **settings), rows, eps)

    def transcoder(
        self, kind: str, card: Mapping[str, Any], W_skip: Tensor | None = None, **settings: Any
    ) -> Dictionary:
        """The dictionary of a transcoder that reads x as it is: an autoencoder kind where that does the same."""
        if W_skip is None and self.W_enc.shape[0] == self.W_dec.shape[1]:
            return self.uncentred().build(kind, card, **settings)
        own = {} if self.threshold is None else {"threshold": self.threshold.expand_as(self.b_enc).clamp_min(0)}
        parts = self.W_enc, self.W_dec, self.b_enc, self.b_dec
        return Transcoder(*parts, **own, W_skip=W_skip, reader=kind, reader_settings=settings, card=dict(card))


def product(b: Tensor, W: Tensor) -> Tensor:
    """``b W`` to the last digit of float32, some rows of W at a time."""
    total, at_once = torch.zeros(W.shape[1], dtype=torch.float64), max(1, _AT_ONCE // W.shape[1])
    for part, rows in zip(b.split(at_once), W.split(at_once), strict=True):
        total += part.double() @ rows.double()
    return total.to(b.dtype)

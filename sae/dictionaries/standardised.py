"""Dictionaries that were trained on activations standardised sample by sample.

    mu, s = mean and standard deviation of a sample   (`layer_norm`: OpenAI, SAELens, Bussmann)
    mu, s = 0 and ||x|| / sqrt(d_in)                  (`norm`: SAELens' constant_norm_rescale)

    x' = (x - mu) / (s + eps),    z' = encoder(x'),    x_hat = s (z' W_dec + b_dec) + mu

This cannot be folded into the weights, because s and mu differ between samples. But it is linear in the codes z = s z'
once s and mu are codes as well: the last latents are `s`, whose direction is ``b_dec``, and, with `layer_norm`, the
positive and the negative part of `mu`, whose directions are 1 and -1 everywhere. So codes are in units of the
activations, ``decode`` needs only codes, and the information that standardisation passes on counts as one or three
latents that always fire. The codes of the original trainer are ``z[..., :n] / z[..., n, None]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionaries._readers import check_reader
from sae.dictionary import Dictionary
from sae.registry import UserError, kinds, unknown

EXTRA = {"layer_norm": 3, "norm": 1}
"""The number of latents that carry the mean and size of a sample, by the way to standardise."""


@dataclass(frozen=True, eq=False)
class Standardised(Dictionary):
    """``z = [s encoder(x'), s, ReLU(mu), ReLU(-mu)]``."""

    kind: ClassVar[str] = "standardised"

    reader: str = "relu"
    """The kind of the inner dictionary, which encodes standardised samples."""
    reader_settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the inner dictionary."""
    rows: str = "layer_norm"
    """The way to standardise, a key of :data:`EXTRA`."""
    eps: float = 1e-5
    """What is added to the standard deviation."""
    threshold: Float[Tensor, " n_read"] | None = None
    """The inner dictionary's threshold, for kinds that have one."""
    gain: Float[Tensor, " n_read"] | None = None
    """The inner dictionary's gain, for kinds that have one."""
    shift: Float[Tensor, " n_read"] | None = None
    """The inner dictionary's shift, for kinds that have one."""

    def __post_init__(self) -> None:
        if self.rows not in EXTRA:
            raise UserError(unknown(self.rows, EXTRA, "way to standardise rows"))
        if not self.n_read > 0 or any(len(t) != self.n_read for t in self.reader_parameters.values()):
            raise UserError(
                f"n_latents = {self.n_latents}: not {EXTRA[self.rows]} more (rows = {self.rows!r}) than the inner "
                "dictionary has; check the shapes of the tensors"
            )
        check_reader(self.reader, self.reader_settings)

    @property
    def reader_parameters(self) -> dict[str, Tensor]:
        """The tensors of the inner dictionary that not every kind has."""
        named = {"threshold": self.threshold, "gain": self.gain, "shift": self.shift}
        return {name: t for name, t in named.items() if t is not None}

    @classmethod
    def over(cls, inner: Dictionary, rows: str, eps: float) -> Standardised:
        """A dictionary of raw activations from one of standardised activations."""
        n = EXTRA[rows]
        tensors = inner.tensors()
        one = torch.ones_like(inner.b_dec)
        W_dec = torch.cat([tensors.pop("W_dec"), inner.b_dec[None], *([one[None], -one[None]] if n == 3 else [])])
        W_enc = torch.nn.functional.pad(tensors.pop("W_enc"), (0, n))
        b_enc, b_dec = torch.nn.functional.pad(tensors.pop("b_enc"), (0, n)), torch.zeros_like(tensors.pop("b_dec"))
        optional = {name: tensors.get(name) for name in ("threshold", "gain", "shift")}
        return cls(
            W_enc,
            W_dec,
            b_enc,
            b_dec,
            reader=inner.kind,
            reader_settings=inner.settings(),
            rows=rows,
            eps=eps,
            **optional,
            card=inner.card,
        )

    @property
    def n_read(self) -> int:
        """The number of latents of the inner dictionary; the latents after them carry the size and mean."""
        return self.n_latents - EXTRA[self.rows]

    @property
    def inner(self) -> Dictionary:
        """The dictionary of standardised activations."""
        n = self.n_read
        parts = self.W_enc[:, :n], self.W_dec[:n], self.b_enc[:n], self.W_dec[n]
        return kinds("dictionaries")[self.reader].KIND(*parts, **self.reader_parameters, **self.reader_settings)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        if self.rows == "norm":
            size = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
            return torch.cat([self.inner.encode(x / torch.where(size > 0, size, 1)) * size, size], -1)
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        size = centred.std(-1, keepdim=True)
        z = self.inner.encode(centred / (size + self.eps)) * size
        return torch.cat([z, size, torch.relu(mean), torch.relu(-mean)], -1)

    def multiply_adds(self) -> int:
        return self.inner.multiply_adds()

    def settings(self) -> dict[str, Any]:
        return {
            "reader": self.reader,
            "reader_settings": dict(self.reader_settings),
            "rows": self.rows,
            "eps": self.eps,
        }


KIND = Standardised

"""A transcoder that no autoencoder kind can represent: its widths differ, or it has a skip connection.

    z = encoder(x),    y_hat = z W_dec + b_dec + x W_skip

Dunefsky, Chlenski and Nanda 2024, 'Transcoders find interpretable LLM feature circuits'; with the skip, Paulo,
Shabalin and Belrose 2025, 'Transcoders beat sparse autoencoders for interpretability'. `b_dec` belongs to the target
and is not subtracted from the input. A transcoder of equal widths and without a skip is loaded as the equivalent
autoencoder kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sae.dictionaries._readers import check_reader
from sae.dictionary import Dictionary
from sae.registry import kinds


@dataclass(frozen=True, eq=False)
class Transcoder(Dictionary):
    """``decode`` is the latents' part of the output; ``reconstruct`` adds the skip connection's."""

    kind: ClassVar[str] = "transcoder"

    reader: str = "relu"
    """The kind whose encoder is used."""
    reader_settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of that kind."""
    threshold: Float[Tensor, " n_latents"] | None = None
    """The threshold of the encoder, for kinds that have one."""
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    """The skip connection; None for none."""

    def __post_init__(self) -> None:
        check_reader(self.reader, self.reader_settings)

    @property
    def inner(self) -> Dictionary:
        """The encoder as an autoencoder with `b_dec` zero."""
        optional = {} if self.threshold is None else {"threshold": self.threshold}
        parts = self.W_enc, self.W_enc.T, self.b_enc, self.W_enc.new_zeros(self.d_in)
        return kinds("dictionaries")[self.reader].KIND(*parts, **optional, **self.reader_settings)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return self.inner.encode(x)

    def reconstruct(
        self, x: Float[Tensor, "*batch d_in"], z: Float[Tensor, "*batch n_latents"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        y_hat = self.decode(self.encode(x) if z is None else z)
        return y_hat if self.W_skip is None else y_hat + x @ self.W_skip

    def check_divisible(self) -> None:
        self.inner.check_divisible()

    def settings(self) -> dict[str, Any]:
        return {"reader": self.reader, "reader_settings": dict(self.reader_settings)}


KIND = Transcoder

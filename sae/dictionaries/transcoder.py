"""A transcoder that is no autoencoder in other words: it writes at another width than it reads, or has a skip.

    z = encoder(x),    y_hat = z W_dec + b_dec + x W_skip

Dunefsky, Chlenski and Nanda 2024, 'Transcoders find interpretable LLM feature circuits'; with the skip, Paulo,
Shabalin and Belrose 2025, 'Transcoders beat sparse autoencoders for interpretability'. The row is read as it is:
`b_dec`, which is of the target, is not subtracted from it. One of a single width and without a skip is read as the
autoencoder kind that does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary, check_reader
from sae.registry import kinds


@dataclass(frozen=True, eq=False)
class Transcoder(Dictionary):
    """``decode`` says what the latents write, as elsewhere; ``reconstruct`` adds what passes beside them."""

    kind: ClassVar[str] = "transcoder"

    reader: str = "relu"
    reader_settings: Mapping[str, Any] = field(default_factory=dict)
    threshold: Float[Tensor, " n_latents"] | None = None
    W_skip: Float[Tensor, "d_in d_out"] | None = None

    def __post_init__(self) -> None:
        check_reader(self.reader, self.reader_settings)

    @property
    def inner(self) -> Dictionary:
        """The reading half, as an autoencoder around zero."""
        own = {} if self.threshold is None else {"threshold": self.threshold}
        parts = self.W_enc, self.W_enc.T, self.b_enc, self.W_enc.new_zeros(self.d_in)
        return kinds("sae.dictionaries")[self.reader].KIND(*parts, **own, **self.reader_settings)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return self.inner.encode(x)

    def reconstruct(
        self, x: Float[Tensor, "*batch d_in"], z: Float[Tensor, "*batch n_latents"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        written = self.decode(self.encode(x) if z is None else z)
        return written if self.W_skip is None else written + x @ self.W_skip

    def settings(self) -> dict[str, Any]:
        return {"reader": self.reader, "reader_settings": dict(self.reader_settings)}


KIND = Transcoder

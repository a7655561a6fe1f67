"""An encoder of your own: the dictionary's codes without those below a share of the sample's largest.

`d.with_encoder(RelativeConfig(share=0.1))`, or `encoder = "relative"` in a config with `--plugin relative_encoder.py`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sae.dictionary import Dictionary
from sae.encoder import EncoderConfig
from sae.source import Source


@dataclass(frozen=True, eq=False)
class Relative(Dictionary):
    kind: ClassVar[str] = "relative"
    share: float = 0.1

    def encode(self, x: Tensor) -> Tensor:
        z = torch.relu(self.centred(x) @ self.W_enc + self.b_enc)
        return torch.where(z >= self.share * z.amax(-1, keepdim=True), z, 0.0)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"share": self.share}


class RelativeConfig(EncoderConfig):
    kind: Literal["relative"] = "relative"
    share: float = 0.1

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Dictionary:
        return Relative(d.W_enc, d.W_dec, d.b_enc, d.b_dec, share=self.share)

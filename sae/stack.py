"""The noun `Stack`: many dictionaries of one shape, trained together on the same batches.

Parameters carry a leading `n_members` axis. The encoder is held latent by latent, ``[n_members, n_latents,
d_in]`` like the decoder, so that everything that is done to one latent (resampling, projection, a sparse
update) touches contiguous rows. A single dictionary is a stack of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.kernels import Latents, Selection
from sae.kinds import Settings
from sae.seeds import generator


class Architecture(ABC):
    """What is an architecture's own: which pre-activations become codes, and its penalty with its derivative.

    The matrix products belong to the engine, dense or sparse; what is said here is said elementwise, for codes
    of any shape. The penalty is ``coefficient * sum_j phi(u_j)`` with ``u_j = ||W_dec[j]|| z_j``.
    """

    unit_rows: bool
    """Whether the decoder's rows are held at norm one."""

    selection: Selection
    """Which pre-activations become codes, unchanged; the others become zero."""

    @abstractmethod
    def penalty(self, u: Tensor) -> Tensor:
        """``phi(u)``, with ``phi(0) = 0``."""

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor | float:
        """``phi'(u)``; a number where phi is linear."""

    @abstractmethod
    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Dictionary:
        """The dictionary in raw units, from tensors ``W_enc W_dec b_enc b_dec`` trained on ``input_scale * x``."""


class DictionaryConfig(Settings, ABC):
    """Settings of one architecture."""

    n_latents: int = Field(gt=0)
    decoder_bias: bool = True

    member_axes: ClassVar[tuple[str, ...]] = ()
    """The fields in which members of one stack may differ; the first is the penalty's coefficient."""

    @abstractmethod
    def architecture(self) -> Architecture: ...

    @property
    @abstractmethod
    def coefficient(self) -> float:
        """The weight of this member's penalty."""


@dataclass
class Stack:
    """The parameters of all members, in units of the scaled input."""

    W_enc: Float[Tensor, "n_members n_latents d_in"]
    W_dec: Float[Tensor, "n_members n_latents d_in"]
    b_enc: Float[Tensor, "n_members n_latents"]
    b_dec: Float[Tensor, "n_members d_in"]

    NAMES: ClassVar[tuple[str, ...]] = ("W_enc", "W_dec", "b_enc", "b_dec")

    @classmethod
    def initialise(cls, seeds: Sequence[int], d_in: int, n_latents: int, mean: Tensor, device: str) -> Stack:
        """Random unit decoder rows, the encoder their transpose, ``b_enc = 0``, ``b_dec`` at the mean.

        Member i depends on ``seeds[i]`` alone, whatever its company.
        """
        rows = torch.stack([torch.randn(n_latents, d_in, generator=generator("init", s)) for s in seeds])
        rows /= rows.norm(dim=-1, keepdim=True)
        W_dec = rows.to(device)
        b_enc = torch.zeros(len(seeds), n_latents, device=device)
        b_dec = mean.to(device, torch.float32).repeat(len(seeds), 1)
        return cls(W_dec.clone(), W_dec, b_enc, b_dec)

    @property
    def n_members(self) -> int:
        return self.W_dec.shape[0]

    def part(self, first: int, last: int) -> Stack:
        """Some members in a row, as views."""
        return Stack(**{name: tensor[first:last] for name, tensor in self.parameters().items()})

    def latents(self) -> Latents:
        """What belongs to latents, those of all members numbered through, as views."""
        return Latents(self.W_enc.flatten(0, 1), self.W_dec.flatten(0, 1), self.b_enc.flatten())

    def offset(self) -> Float[Tensor, "n_members n_latents"]:
        """``b_enc - W_enc b_dec``, so that pre-activations are ``x W_enc^T + offset``."""
        along = torch.empty_like(self.b_enc)
        products_(along[:, :, None], self.W_enc, self.b_dec[:, :, None])
        return self.b_enc - along

    def along_encoder(self, weight: Float[Tensor, "n_members n_latents"]) -> Float[Tensor, "n_members d_in"]:
        """``weight W_enc``, the encoder's rows added up."""
        total = torch.empty_like(self.b_dec)
        products_(total[:, None, :], weight[:, None, :], self.W_enc)
        return total

    def parameters(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.NAMES}

    def member(self, i: int) -> dict[str, Tensor]:
        """Copies of one member's tensors in a dictionary's layout (`W_enc` is ``[d_in, n_latents]``)."""
        tensors = {name: tensor[i].clone() for name, tensor in self.parameters().items()}
        return {**tensors, "W_enc": tensors["W_enc"].T.contiguous()}


def raw_units(tensors: Mapping[str, Tensor], input_scale: float) -> dict[str, Any]:
    """Folds the scale in and makes every decoder row a unit vector, which leaves ``x_hat`` as it was.

    With x' = s x, ``z' = s z``: dividing both biases by s gives codes in raw units. A row of norm r is divided by
    r and its latent multiplied by r, since selections commute with positive factors.
    """
    norm = tensors["W_dec"].norm(dim=-1)
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    return {
        "W_enc": tensors["W_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
        "b_enc": tensors["b_enc"] * norm / input_scale,
        "b_dec": tensors["b_dec"] / input_scale,
    }


def products_(out: Tensor, a: Tensor, b: Tensor, keep: bool = False) -> None:
    """``out[i] = a[i] b[i]``, added to what is there where `keep` says so.

    On a CPU one product after the other: in a batch, how a sum is parted among threads, and so its last bits,
    depends on how many others there are.
    """
    if out.is_cuda:
        torch.baddbmm(out, a, b, beta=int(keep), out=out)
        return
    for o, left, right in zip(out, a, b, strict=True):
        torch.addmm(o, left, right, beta=int(keep), out=o)

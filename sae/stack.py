"""The noun `Stack`: many dictionaries of one shape, trained together on the same batches.

Parameters carry a leading `n_members` axis. The encoder is held latent by latent, ``[n_members, n_latents,
d_in]`` like the decoder, so that everything that is done to one latent (resampling, projection, a sparse
update) touches contiguous rows. A single dictionary is a stack of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.kinds import Settings
from sae.seeds import generator


class Architecture(ABC):
    """What is an architecture's own. The matrix products belong to the training loop.

    Methods with a trailing underscore may, and should, work in the buffer that they are given.
    """

    unit_rows: bool
    """Whether the decoder's rows are held at norm one."""

    @abstractmethod
    def activate_(self, pre: Float[Tensor, "n_members batch n_latents"]) -> Tensor:
        """The codes of the pre-activations."""

    @abstractmethod
    def derivative_(self, grad: Float[Tensor, "n_members batch n_latents"], z: Tensor) -> Tensor:
        """The gradient with respect to the pre-activations, from that with respect to the codes."""

    @abstractmethod
    def penalty(
        self, z: Tensor, z_sum: Tensor, row_norm: Tensor, coefficient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The penalty summed over the batch ``[n_members]``; its gradient in the codes, of any shape that
        broadcasts to `z`; and its gradient in the decoder's row norms ``[n_members, n_latents]``, None where
        rows are unit.

        `z` is ``[n_members, batch, n_latents]``, `z_sum` its sum over the batch, `row_norm` the norm of each
        decoder row ``[n_members, n_latents]``, `coefficient` the members' weights ``[n_members]``.
        """

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

    def parameters(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.NAMES}

    def member(self, i: int) -> dict[str, Tensor]:
        """Copies of one member's tensors in a dictionary's layout (`W_enc` is ``[d_in, n_latents]``)."""
        tensors = {name: tensor[i].clone() for name, tensor in self.parameters().items()}
        return {**tensors, "W_enc": tensors["W_enc"].T.contiguous()}

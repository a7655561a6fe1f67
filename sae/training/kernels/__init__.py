"""The products of a training step that touch only active latents: one interface, a backend for each machine.

`reference` is plain torch, for any device and precision: the twin that the others are tested against, and what
is used where they are missing. `cpu` is compiled by numba, `gpu` by Triton.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.architecture import Selection


class Codes(NamedTuple):
    """Sparse codes of some members on the same batch, row by row: the pairs of row b are ``start[b]:start[b + 1]``.

    Rows and latents are numbered through: those of the first member come first, then those of the second, ...
    """

    start: Int[Tensor, " rows+1"]
    latent: Int[Tensor, " pairs"]
    value: Float[Tensor, " pairs"]


class ByLatent(NamedTuple):
    """The same pairs, latent by latent: those of latent j are ``start[j]:start[j + 1]``, in the order of their rows.

    `pair` is each one's place in the `Codes` that were transposed.
    """

    start: Int[Tensor, " latents+1"]
    row: Int[Tensor, " pairs"]
    pair: Int[Tensor, " pairs"]


class Latents(NamedTuple):
    """What belongs to the latents of some members, numbered through: parameters, their gradients or moments."""

    W_enc: Float[Tensor, "latents d_in"]
    W_dec: Float[Tensor, "latents d_in"]
    b_enc: Float[Tensor, " latents"]


class Adam(NamedTuple):
    """One step of Adam (Kingma and Ba 2015): ``p -= step_size m / (sqrt(v) root + eps)``.

    `step_size` is the learning rate over ``1 - beta1^t`` and `root` is ``(1 - beta2^t)^(-1/2)``. Both change from
    step to step: where a step is captured and replayed, they are tensors without dimensions.
    """

    step_size: float | Tensor
    root: float | Tensor
    beta1: float
    beta2: float
    eps: float = 1e-8

    @classmethod
    def at(cls, t: int, lr: float, beta1: float, beta2: float) -> Adam:
        """The `t`-th step, counted from 1."""
        return cls(lr / (1 - beta1**t), (1 - beta2**t) ** -0.5, beta1, beta2)


@dataclass(frozen=True, eq=False)
class Rounded:
    """An encoder rounded to bfloat16, and for each latent the norms ``||w||`` and ``||w - rounded w||``.

    With ``y = x . w`` and ``y' = x' . w'`` of the rounded vectors, Cauchy and Schwarz give the screen's bound

        |y - y'| <= ||x - x'|| ||w|| + ||x'|| ||w - w'||

    to which the sum's own rounding in float32 and that of its result to bfloat16 are added.
    """

    W_enc: Tensor
    norm: Float[Tensor, " latents"]
    error: Float[Tensor, " latents"]
    exact: bool
    """Whether the rounded product only screens, and codes are recomputed in float32, or is taken for the codes."""

    @classmethod
    def of(cls, W_enc: Float[Tensor, "latents d_in"], exact: bool) -> Rounded:
        norm = W_enc.new_empty(len(W_enc))
        rounded = cls(torch.empty_like(W_enc, dtype=torch.bfloat16), norm, torch.empty_like(norm), exact)
        rounded.refresh_(W_enc)
        return rounded

    def part(self, first: int, last: int) -> Rounded:
        """That of some latents in a row, as views."""
        return Rounded(self.W_enc[first:last], self.norm[first:last], self.error[first:last], self.exact)

    def refresh_(self, W_enc: Float[Tensor, "latents d_in"]) -> None:
        """Follows the encoder after it was changed."""
        self.W_enc.copy_(W_enc)
        torch.linalg.vector_norm(W_enc, dim=-1, out=self.norm)
        torch.linalg.vector_norm(W_enc - self.W_enc, dim=-1, out=self.error)


class Kernels(ABC):
    """The products of a step of one or more members. An instance may keep buffers; results are valid until the
    next call. `n_members` is the length of `b_dec`, of which every member has a row; the batch is shared."""

    sparse_below: ClassVar[float]
    """The sparse path is taken up where fewer than this share of the latents are active,"""
    dense_above: ClassVar[float]
    """and left where more than this share are."""

    @abstractmethod
    def encode(
        self,
        x: Float[Tensor, "batch d_in"],
        W_enc: Float[Tensor, "latents d_in"],
        offset: Float[Tensor, " latents"],
        selection: Selection,
        rounded: Rounded | None = None,
        n_members: int = 1,
    ) -> Codes:
        """The codes among ``x W_enc^T + offset``; latents ascend within a row."""

    @abstractmethod
    def decode(
        self,
        codes: Codes,
        W_dec: Float[Tensor, "latents d_in"],
        b_dec: Float[Tensor, "n_members d_in"],
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "rows d_in"],
    ) -> Float[Tensor, " pairs"]:
        """``r = z W_dec + b_dec - x`` into `residual`, and for each pair ``r . W_dec[latent]``."""

    @abstractmethod
    def transpose(self, codes: Codes, n_latents: int) -> ByLatent:
        """The pairs, latent by latent; `n_latents` counts those of all members."""

    @abstractmethod
    def sums(self, by: ByLatent, values: Float[Tensor, " pairs"]) -> Float[Tensor, " latents"]:
        """The sum of `values` over the pairs of each latent."""

    @abstractmethod
    def gradients(self, pull: SparseBackward, into: Latents) -> None:
        """The gradient of the latents' parameters, see :class:`SparseBackward`."""

    @abstractmethod
    def descend(
        self,
        p: Latents,
        m: Latents,
        v: Latents,
        gradient: Latents,
        adam: Adam,
        unit_rows: bool,
        rounded: Rounded | None,
    ) -> None:
        """One step of `adam` down `gradient`, which is overwritten.

        With `unit_rows`, the part of the decoder's gradient along its row is taken out first and the row is
        brought back to norm one afterwards. `rounded` follows the encoder.
        """

    @abstractmethod
    def update(
        self,
        pull: SparseBackward,
        p: Latents,
        m: Latents,
        v: Latents,
        adam: Adam,
        unit_rows: bool,
        rounded: Rounded | None,
    ) -> None:
        """:meth:`gradients` and :meth:`descend` in one pass over the weights; no gradient matrix exists."""


class SparseBackward(NamedTuple):
    """All that the gradient of a latent's parameters is made of, for codes z and pre-activations' gradients g:

    dW_dec[j] = scale sum_b z_bj r_b + along_j W_dec[j]
    dW_enc[j] = scale (sum_b g_bj x_b - (sum_b g_bj) centre)
    db_enc[j] = scale sum_b g_bj
    """

    by: ByLatent
    z: Float[Tensor, " pairs"]
    g: Float[Tensor, " pairs"]
    residual: Float[Tensor, "rows d_in"]
    x: Float[Tensor, "batch d_in"]
    centre: Float[Tensor, "n_members d_in"]
    W_dec: Float[Tensor, "latents d_in"]
    along: Float[Tensor, " latents"] | None
    scale: float

"""Interface of kernels: the products of a training step that touch only active latents, with one backend per machine.

`reference` is plain torch, for any device and precision: the others are tested against it, and it is used where they
are not available. `cpu` is compiled by numba, `gpu` by Triton.
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
    """Sparse codes of some members on the same batch: row b holds the pairs ``start[b]:start[b + 1]``.

    Rows and latents are numbered across members: first those of the first member, then those of the second, ...
    """

    start: Int[Tensor, " rows+1"]
    """Where the pairs of each row start; the last entry is the number of pairs."""
    latent: Int[Tensor, " pairs"]
    """The latent of each pair, ascending within a row."""
    value: Float[Tensor, " pairs"]
    """The code of each pair."""


class ByLatent(NamedTuple):
    """The same pairs grouped by latent: latent j holds the pairs ``start[j]:start[j + 1]``, in the order of rows."""

    start: Int[Tensor, " latents+1"]
    """Where the pairs of each latent start; the last entry is the number of pairs."""
    row: Int[Tensor, " pairs"]
    """The row of each pair."""
    pair: Int[Tensor, " pairs"]
    """The index of each pair in the transposed `Codes`."""


class Latents(NamedTuple):
    """Parameters of latents, their gradients or their moments; latents are numbered across members."""

    W_enc: Float[Tensor, "latents d_in"]
    """The encoder, one row per latent."""
    W_dec: Float[Tensor, "latents d_in"]
    """The decoder, one row per latent."""
    b_enc: Float[Tensor, " latents"]
    """The encoder bias."""


class Adam(NamedTuple):
    """One step of Adam (Kingma and Ba 2015): ``p -= step_size m / (sqrt(v) root + eps)``."""

    step_size: float | Tensor
    """The learning rate over ``1 - beta1^t``; a tensor without dimensions where the step is captured and replayed."""
    root: float | Tensor
    """``(1 - beta2^t)^(-1/2)``; a tensor without dimensions where the step is captured and replayed."""
    beta1: float
    """The decay of the first moment."""
    beta2: float
    """The decay of the second moment."""
    eps: float = 1e-8
    """The constant added to the denominator."""

    @classmethod
    def at(cls, t: int, lr: float, beta1: float, beta2: float) -> Adam:
        """The `t`-th step, counted from 1."""
        return cls(lr / (1 - beta1**t), (1 - beta2**t) ** -0.5, beta1, beta2)


@dataclass(frozen=True, eq=False)
class Rounded:
    """An encoder rounded to bfloat16, with what bounds the error of its products.

    With ``y = x . w`` and ``y' = x' . w'`` of the rounded vectors, the Cauchy-Schwarz inequality gives the bound

        |y - y'| <= ||x - x'|| ||w|| + ||x'|| ||w - w'||

    to which the rounding of the sum in float32 and of its result to bfloat16 are added.
    """

    W_enc: Tensor
    """The rounded encoder, ``[latents, d_in]``."""
    norm: Float[Tensor, " latents"]
    """``||w||`` of each row."""
    error: Float[Tensor, " latents"]
    """``||w - w'||`` of each row."""
    exact: bool
    """Whether the rounded product only screens for active latents, whose codes are then computed in float32; otherwise
    it is taken for the codes."""

    @classmethod
    def of(cls, W_enc: Float[Tensor, "latents d_in"], exact: bool) -> Rounded:
        """Rounds an encoder."""
        norm = W_enc.new_empty(len(W_enc))
        rounded = cls(torch.empty_like(W_enc, dtype=torch.bfloat16), norm, torch.empty_like(norm), exact)
        rounded.refresh_(W_enc)
        return rounded

    def part(self, first: int, last: int) -> Rounded:
        """The latents `first` to `last`, as views."""
        return Rounded(self.W_enc[first:last], self.norm[first:last], self.error[first:last], self.exact)

    def refresh_(self, W_enc: Float[Tensor, "latents d_in"]) -> None:
        """Rounds the encoder again, in place, after it has changed."""
        self.W_enc.copy_(W_enc)
        torch.linalg.vector_norm(W_enc, dim=-1, out=self.norm)
        torch.linalg.vector_norm(W_enc - self.W_enc, dim=-1, out=self.error)


class TrainedLatents(NamedTuple):
    """The latents that a step of Adam updates in place."""

    parameters: Latents
    """The parameters."""
    m: Latents
    """Adam's first moments."""
    v: Latents
    """Adam's second moments."""
    unit_rows: bool
    """Whether decoder rows stay at norm one: the gradient's component along a row is removed before the step, and the
    row is normalised after it."""
    rounded: Rounded | None = None
    """The rounded encoder, which is updated too; None for none."""


class Kernels(ABC):
    """The products of a training step of one or more members, which share the batch.

    An instance may keep buffers: results are valid until the next call. `b_dec` has one row per member.
    """

    sparse_below: ClassVar[float]
    """The share of active latents below which a member moves to the sparse path."""
    dense_above: ClassVar[float]
    """The share of active latents above which a member moves back to the dense path."""

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
        """The codes that `selection` keeps of ``x W_enc^T + offset``."""

    @abstractmethod
    def decode(
        self,
        codes: Codes,
        W_dec: Float[Tensor, "latents d_in"],
        b_dec: Float[Tensor, "n_members d_in"],
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "rows d_in"],
    ) -> Float[Tensor, " pairs"]:
        """Writes ``r = z W_dec + b_dec - x`` to `residual` and returns ``r . W_dec[latent]`` of each pair."""

    def reconstruct(
        self,
        codes: Codes,
        W_dec: Float[Tensor, "latents d_in"],
        b_dec: Float[Tensor, "n_members d_in"],
        x: Float[Tensor, "batch d_in"],
        residual: Float[Tensor, "rows d_in"],
    ) -> None:
        """:meth:`decode` without its result: only writes the residual."""
        self.decode(codes, W_dec, b_dec, x, residual)

    def along_decoder(
        self, codes: Codes, W_dec: Float[Tensor, "latents d_in"], residual: Float[Tensor, "rows d_in"]
    ) -> Float[Tensor, " pairs"]:
        """``r . W_dec[latent]`` of each pair, for given residuals; the values of the codes are not used.

        Here by decoding zero codes with a target of -r.
        """
        none = codes._replace(value=torch.zeros_like(codes.value))
        return self.decode(none, W_dec, torch.zeros_like(residual[:1]), -residual, torch.empty_like(residual))

    @abstractmethod
    def transpose(self, codes: Codes, n_latents: int) -> ByLatent:
        """The pairs grouped by latent; `n_latents` counts the latents of all members."""

    @abstractmethod
    def sums(self, by: ByLatent, values: Float[Tensor, " pairs"]) -> Float[Tensor, " latents"]:
        """The sum of `values` over the pairs of each latent."""

    @abstractmethod
    def gradients(self, backward: SparseBackward, into: Latents) -> None:
        """Writes the gradients of the latents' parameters to `into`, see :class:`SparseBackward`."""

    @abstractmethod
    def descend(self, latents: TrainedLatents, gradient: Latents, adam: Adam) -> None:
        """One step of `adam` down `gradient`, which is overwritten."""

    @abstractmethod
    def update(self, latents: TrainedLatents, backward: SparseBackward, adam: Adam) -> None:
        """:meth:`gradients` and :meth:`descend` in one pass over the weights, without storing a gradient matrix."""


class SparseBackward(NamedTuple):
    """The terms of the gradient of the latents' parameters, for codes z and gradients g in the pre-activations:

    dW_dec[j] = scale sum_b z_bj r_b + along_j W_dec[j]
    dW_enc[j] = scale (sum_b g_bj x_b - (sum_b g_bj) centre)
    db_enc[j] = scale sum_b g_bj
    """

    by: ByLatent
    """The pairs grouped by latent."""
    z: Float[Tensor, " pairs"]
    """The codes, in the order of `Codes`."""
    g: Float[Tensor, " pairs"]
    """The gradients in the pre-activations, in the order of `Codes`."""
    residual: Float[Tensor, "rows d_in"]
    """``r = x_hat - x``."""
    x: Float[Tensor, "batch d_in"]
    """The inputs."""
    centre: Float[Tensor, "n_members d_in"]
    """What the encoder subtracts from the inputs."""
    W_dec: Float[Tensor, "latents d_in"]
    """The decoder."""
    along: Float[Tensor, " latents"] | None
    """The penalty's gradient along each decoder row; None for none."""
    scale: float
    """The factor of the sums, two over the batch size."""

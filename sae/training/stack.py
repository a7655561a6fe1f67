"""Stacks: dictionaries of one shape that are trained together on the same batches.

Parameters have a leading `n_members` axis. The encoder is stored as ``[n_members, n_latents, d_in]``, like the decoder,
so that every operation on one latent (resampling, projection, a sparse update) touches contiguous rows. A single
dictionary is a stack of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.seeds import generator
from sae.training.kernels import Latents

Start = Literal["random", "orthogonal", "data"]
"""The initial decoder rows, see :func:`first_directions`."""


@dataclass
class Stack:
    """The parameters of all members, in units of the scaled input."""

    W_enc: Float[Tensor, "n_members n_latents d_in"]
    """The encoders, one row per latent."""
    W_dec: Float[Tensor, "n_members n_latents d_in"]
    """The decoders, one row per latent."""
    b_enc: Float[Tensor, "n_members n_latents"]
    """The encoder biases."""
    b_dec: Float[Tensor, "n_members d_in"]
    """The decoder biases."""
    latent_parameters: dict[str, Float[Tensor, "n_members n_latents"]] = field(default_factory=dict)
    """The per-latent parameters that the architecture adds, by name."""
    batch_threshold: Float[Tensor, " n_members"] = field(default_factory=lambda: torch.zeros(0))
    """The moving average of the smallest code that a selection over the batch keeps; not a parameter."""
    first_threshold: Float[Tensor, " n_members"] | None = None
    """The moving average of the smallest pre-activation that the first of two selections keeps, where the encoder takes
    a step of iterative shrinkage; not a parameter."""
    centre: Float[Tensor, "n_members d_in"] | None = None
    """What encoders subtract from the input; `b_dec` if None. Not a parameter."""
    initial_W_dec: Float[Tensor, "n_members n_latents d_in"] | None = None
    """The initial unit decoder rows, for :meth:`keep_near_`; None for no constraint. Not a parameter."""

    NAMES: ClassVar[tuple[str, ...]] = ("W_enc", "W_dec", "b_enc", "b_dec")
    STORED: ClassVar[dict[str, str]] = {
        "bar": "batch_threshold",
        "first_threshold": "first_threshold",
        "centre": "centre",
        "began": "initial_W_dec",
    }
    """Names in :meth:`tensors`, and so in checkpoints, of the fields that are not parameters."""
    WITHOUT_LATENTS: ClassVar[tuple[str, ...]] = ("b_dec", "bar", "first_threshold", "centre")
    """Names in :meth:`tensors` of what has no axis of latents."""

    def __post_init__(self) -> None:
        if not len(self.batch_threshold):
            self.batch_threshold = self.b_enc.new_zeros(len(self.b_enc))

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> Stack:
        """The stack of named tensors, as :meth:`tensors` gives them."""
        fields = {name: name for name in cls.NAMES} | cls.STORED
        known = {field: named[name] for name, field in fields.items() if name in named}
        return cls(**known, latent_parameters={k: v for k, v in named.items() if k not in fields})

    @classmethod
    def initialise(
        cls,
        seeds: Sequence[int],
        n_latents: int,
        centre: Float[Tensor, " d_in"],
        device: str,
        start: Start = "random",
        rows: Float[Tensor, "rows d_in"] | None = None,
        latents: Int[Tensor, " n"] | None = None,
    ) -> Stack:
        """Unit decoder rows, the encoder their transpose, ``b_enc = 0``, ``b_dec`` at the `centre`.

        Member i depends only on ``seeds[i]`` and the samples `rows`. With `latents`, the stack has only these of each
        member.
        """
        directions = [first_directions(start, s, n_latents, centre, rows) for s in seeds]
        if latents is not None:
            directions = [each[latents] for each in directions]
        W_dec = torch.stack(directions).to(device)
        b_enc = W_dec.new_zeros(W_dec.shape[:2])
        b_dec = centre.to(device, torch.float32).repeat(len(seeds), 1)
        return cls(W_dec.clone(), W_dec, b_enc, b_dec)

    @property
    def n_members(self) -> int:
        return self.W_dec.shape[0]

    def part(self, first: int, last: int) -> Stack:
        """The members `first` to `last`, as views."""
        return Stack.of({name: tensor[first:last] for name, tensor in self.tensors().items()})

    def latents(self) -> Latents:
        """The weights and `b_enc`, with latents numbered across members, as views."""
        return Latents(self.W_enc.flatten(0, 1), self.W_dec.flatten(0, 1), self.b_enc.flatten())

    def per_latent(self) -> dict[str, Float[Tensor, "n_members n_latents"]]:
        """The per-latent parameters that an architecture sees."""
        return {**self.latent_parameters, "b_enc": self.b_enc}

    @property
    def subtracted(self) -> Float[Tensor, "n_members d_in"]:
        """What encoders subtract from the input: `centre`, or `b_dec` without one."""
        return self.b_dec if self.centre is None else self.centre

    def offset(self) -> Float[Tensor, "n_members n_latents"]:
        """``b_enc - W_enc b_dec``, so that pre-activations are ``x W_enc^T + offset``."""
        projection = torch.empty_like(self.b_enc)
        products_(projection[:, :, None], self.W_enc, self.subtracted[:, :, None])
        return self.b_enc - projection

    def along_encoder(self, weight: Float[Tensor, "n_members n_latents"]) -> Float[Tensor, "n_members d_in"]:
        """``weight W_enc``, the weighted sum of encoder rows: the gradient of b_dec through the encoder, zero where a
        `centre` replaces it."""
        total = torch.zeros_like(self.b_dec)
        if self.centre is None:
            products_(total[:, None, :], weight[:, None, :], self.W_enc)
        return total

    def norm(self) -> Float[Tensor, "n_members n_latents"]:
        """The norms of decoder rows, at least 1e-12."""
        return self.W_dec.norm(dim=-1).clamp_min(1e-12)

    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {**{name: getattr(self, name) for name in self.NAMES}, **self.latent_parameters}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their names in checkpoints: the parameters and :attr:`STORED`."""
        stored = {name: getattr(self, field) for name, field in self.STORED.items()}
        return {**self.parameters(), **{name: t for name, t in stored.items() if t is not None}}

    def keep_near_(self, cosine: float) -> None:
        """Projects decoder rows to a cosine of at least `cosine` with `initial_W_dec`, where there is one."""
        if self.initial_W_dec is not None:
            keep_within_cosine_(self.W_dec, self.initial_W_dec, cosine)

    def align_(self) -> None:
        """Moves every encoder row along its decoder row until their inner product is one: the nearest such row."""
        square = self.W_dec.square().sum(-1, keepdim=True).clamp_min(1e-24)
        along = (self.W_enc * self.W_dec).sum(-1, keepdim=True)
        self.W_enc.addcmul_((1 - along) / square, self.W_dec)

    def member(self, i: int) -> dict[str, Tensor]:
        """Copies of one member's tensors in a dictionary's layout (`W_enc` is ``[d_in, n_latents]``)."""
        tensors = {name: tensor[i].clone() for name, tensor in self.tensors().items()}
        return {**tensors, "W_enc": tensors["W_enc"].T.contiguous()}


def first_directions(
    start: Start, seed: int, n_latents: int, centre: Float[Tensor, " d_in"], rows: Float[Tensor, "rows d_in"] | None
) -> Float[Tensor, "n_latents d_in"]:
    """Unit vectors: uniform on the sphere, in orthogonal sets of `d_in` (Sharkey et al. 2022), or different samples of
    the data, centred (repeated where there are too few)."""
    draw, d_in = generator("init", seed), len(centre)
    if start == "data":
        assert rows is not None
        order = torch.randperm(len(rows), generator=draw).repeat(-(-n_latents // len(rows)))
        directions = rows[order[:n_latents]] - centre
    else:
        directions = torch.randn(n_latents, d_in, generator=draw)
    if start == "orthogonal":
        directions = torch.cat([torch.linalg.qr(part.T).Q.T for part in directions.split(d_in)])
    return directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def products_(out: Tensor, a: Tensor, b: Tensor, keep: bool = False) -> None:
    """``out[i] = a[i] b[i]``, added to `out` with `keep`.

    On a CPU the products are computed one after the other: in a batched product, the division of a sum among threads,
    and so its last bits, depends on the number of products.
    """
    if out.is_cuda:
        torch.baddbmm(out, a, b, beta=int(keep), out=out)
        return
    for o, left, right in zip(out, a, b, strict=True):
        torch.addmm(o, left, right, beta=int(keep), out=o)


OPPOSITE = 1e-6
"""The perpendicular part of a row, as a share of its norm, below which it is (anti)parallel up to rounding."""


def keep_within_cosine_(w: Float[Tensor, "*rows d_in"], axis: Float[Tensor, "*rows d_in"], cosine: float) -> None:
    """Projects every row of `w` to a cosine of at least `cosine` with its unit row of `axis`, keeping its norm.

    Rows inside the cone keep their bits. A row opposite to its axis is moved onto the axis.
    """
    norm, along = w.norm(dim=-1, keepdim=True), (w * axis).sum(-1, keepdim=True)
    outside = along < cosine * norm
    perpendicular = w - along * axis
    distance = perpendicular.norm(dim=-1, keepdim=True)
    border = cosine * axis + (1 - cosine**2) ** 0.5 * perpendicular / distance.clamp_min(1e-30)
    border = torch.where(distance > OPPOSITE * norm, border, axis)
    w.copy_(torch.where(outside, norm * border, w))

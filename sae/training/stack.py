"""The noun `Stack`: many dictionaries of one shape, trained together on the same batches.

Parameters carry a leading `n_members` axis. The encoder is held latent by latent, ``[n_members, n_latents,
d_in]`` like the decoder, so that everything that is done to one latent (resampling, projection, a sparse
update) touches contiguous rows. A single dictionary is a stack of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.seeds import generator
from sae.training.kernels import Latents

Start = Literal["random", "orthogonal", "data"]


@dataclass
class Stack:
    """The parameters of all members, in units of the scaled input.

    `latent_parameters` are an architecture's numbers of each latent. `batch_threshold` follows the least code that a
    selection over the batch
    keeps; it is no parameter. `centre` is what encoders subtract from the input where that is not `b_dec`.
    `initial_W_dec` are
    the unit rows that W_dec began at, where it is to stay near them.
    """

    W_enc: Float[Tensor, "n_members n_latents d_in"]
    W_dec: Float[Tensor, "n_members n_latents d_in"]
    b_enc: Float[Tensor, "n_members n_latents"]
    b_dec: Float[Tensor, "n_members d_in"]
    latent_parameters: dict[str, Float[Tensor, "n_members n_latents"]] = field(default_factory=dict)
    batch_threshold: Float[Tensor, " n_members"] = field(default_factory=lambda: torch.zeros(0))
    centre: Float[Tensor, "n_members d_in"] | None = None
    initial_W_dec: Float[Tensor, "n_members n_latents d_in"] | None = None

    NAMES: ClassVar[tuple[str, ...]] = ("W_enc", "W_dec", "b_enc", "b_dec")
    STORED: ClassVar[dict[str, str]] = {"bar": "batch_threshold", "centre": "centre", "began": "initial_W_dec"}
    """Names in :meth:`tensors`, and so in checkpoints, of the fields that are no parameters."""

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
    ) -> Stack:
        """Unit decoder rows, the encoder their transpose, ``b_enc = 0``, ``b_dec`` at the `centre`.

        Member i depends on ``seeds[i]`` and the `rows` alone, whatever its company.
        """
        directions = [first_directions(start, s, n_latents, centre, rows) for s in seeds]
        W_dec = torch.stack(directions).to(device)
        b_enc = torch.zeros(len(seeds), n_latents, device=device)
        b_dec = centre.to(device, torch.float32).repeat(len(seeds), 1)
        return cls(W_dec.clone(), W_dec, b_enc, b_dec)

    @property
    def n_members(self) -> int:
        return self.W_dec.shape[0]

    def part(self, first: int, last: int) -> Stack:
        """Some members in a row, as views."""
        return Stack.of({name: tensor[first:last] for name, tensor in self.tensors().items()})

    def latents(self) -> Latents:
        """What belongs to latents, those of all members numbered through, as views."""
        return Latents(self.W_enc.flatten(0, 1), self.W_dec.flatten(0, 1), self.b_enc.flatten())

    def per_latent(self) -> dict[str, Float[Tensor, "n_members n_latents"]]:
        """The numbers of each latent that an architecture sees."""
        return {**self.latent_parameters, "b_enc": self.b_enc}

    @property
    def subtracted(self) -> Float[Tensor, "n_members d_in"]:
        """What encoders subtract from the input."""
        return self.b_dec if self.centre is None else self.centre

    def offset(self) -> Float[Tensor, "n_members n_latents"]:
        """``b_enc - W_enc b_dec``, so that pre-activations are ``x W_enc^T + offset``."""
        along = torch.empty_like(self.b_enc)
        products_(along[:, :, None], self.W_enc, self.subtracted[:, :, None])
        return self.b_enc - along

    def along_encoder(self, weight: Float[Tensor, "n_members n_latents"]) -> Float[Tensor, "n_members d_in"]:
        """``weight W_enc``, the encoder's rows added up: what reaches b_dec through the encoder."""
        total = torch.zeros_like(self.b_dec)
        if self.centre is None:
            products_(total[:, None, :], weight[:, None, :], self.W_enc)
        return total

    def norm(self) -> Float[Tensor, "n_members n_latents"]:
        """The norm of decoder rows, for a division."""
        return self.W_dec.norm(dim=-1).clamp_min(1e-12)

    def parameters(self) -> dict[str, Tensor]:
        return {**{name: getattr(self, name) for name in self.NAMES}, **self.latent_parameters}

    def tensors(self) -> dict[str, Tensor]:
        """The parameters and what follows them."""
        held = {name: getattr(self, field) for name, field in self.STORED.items()}
        return {**self.parameters(), **{name: t for name, t in held.items() if t is not None}}

    def keep_near_(self, least: float) -> None:
        """Brings decoder rows back to a cosine of at least `least` with where they began, if that is remembered."""
        if self.initial_W_dec is not None:
            into_cone_(self.W_dec, self.initial_W_dec, least)

    def member(self, i: int) -> dict[str, Tensor]:
        """Copies of one member's tensors in a dictionary's layout (`W_enc` is ``[d_in, n_latents]``)."""
        tensors = {name: tensor[i].clone() for name, tensor in self.tensors().items()}
        return {**tensors, "W_enc": tensors["W_enc"].T.contiguous()}


def first_directions(
    start: Start, seed: int, n_latents: int, centre: Float[Tensor, " d_in"], rows: Float[Tensor, "rows d_in"] | None
) -> Float[Tensor, "n_latents d_in"]:
    """Unit vectors: uniform on the sphere, in orthogonal sets of `d_in` (Sharkey et al. 2022), or different rows of the
    data, centred (repeated where there are too few)."""
    draw, d_in = generator("init", seed), len(centre)
    if start == "data":
        assert rows is not None
        order = torch.randperm(len(rows), generator=draw).repeat(-(-n_latents // len(rows)))
        found = rows[order[:n_latents]] - centre
    else:
        found = torch.randn(n_latents, d_in, generator=draw)
    if start == "orthogonal":
        found = torch.cat([torch.linalg.qr(part.T).Q.T for part in found.split(d_in)])
    return found / found.norm(dim=-1, keepdim=True).clamp_min(1e-12)


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


OPPOSITE = 1e-6
"""How little of a row's length is aside from where it began, for it to point the opposite way up to rounding."""


def into_cone_(w: Float[Tensor, "*rows d_in"], began: Float[Tensor, "*rows d_in"], least: float) -> None:
    """Brings every row of `w` to a cosine of at least `least` with its row of `initial_W_dec`, whose norm is one;
    rows that
    are there keep their bits. A row that points the opposite way goes to where it began."""
    norm, along = w.norm(dim=-1, keepdim=True), (w * began).sum(-1, keepdim=True)
    outside = along < least * norm
    aside = w - along * began
    far = aside.norm(dim=-1, keepdim=True)
    border = least * began + (1 - least**2) ** 0.5 * aside / far.clamp_min(1e-30)
    border = torch.where(far > OPPOSITE * norm, border, began)
    w.copy_(torch.where(outside, norm * border, w))

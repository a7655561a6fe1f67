"""Directions of features: random, repelled, orthonormal, at the corners of a polytope, or explicit unit rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import product
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.registry import Settings, UserError
from sae.toys.base import random_directions


class Directions(Settings, ABC):
    """Interface of rules for the directions of features."""

    @abstractmethod
    def check(self, n_features: int, d_in: int) -> None:
        """Raises `UserError` if that many features do not fit into `d_in` dimensions."""

    @abstractmethod
    def rows(self, n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
        """Unit rows; a row of zeros is a feature that the activations do not represent."""


class RandomDirections(Directions):
    """Uniform on the sphere."""

    kind: Literal["random"] = "random"

    def check(self, n_features: int, d_in: int) -> None:
        pass

    def rows(self, n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
        return random_directions(n_features, d_in, draw)


class Orthonormal(Directions):
    """Orthonormal directions, rotated at random."""

    kind: Literal["orthonormal"] = "orthonormal"

    def check(self, n_features: int, d_in: int) -> None:
        if n_features > d_in:
            raise UserError(f"directions: {n_features} orthonormal features do not fit into d_in = {d_in}; raise d_in")

    def rows(self, n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
        return rotation(d_in, draw)[:n_features].contiguous()


class Repelled(Directions):
    """Uniform on the sphere, then made more orthogonal by minimising

        sum_{i != j} (f_i . f_j)^2 + n_features sum_i (||f_i||^2 - 1)^2

    with Adam and normalising: the orthogonalisation of SynthSAEBench (arXiv 2602.14687).
    """

    kind: Literal["repelled"] = "repelled"
    steps: int = Field(100, ge=0)
    """Steps of Adam."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate of Adam."""

    def check(self, n_features: int, d_in: int) -> None:
        pass

    def rows(self, n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
        f = random_directions(n_features, d_in, draw)
        first, second = torch.zeros_like(f), torch.zeros_like(f)
        for step in range(1, self.steps + 1):
            square = f.square().sum(1, keepdim=True)
            # sum_j (f_i . f_j) f_j through the d_in x d_in product, minus the term j = i.
            gradient = 4 * (f @ (f.T @ f) - square * f) + 4 * n_features * (square - 1) * f
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            f = f - self.lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        return f / f.norm(dim=1, keepdim=True)


class Polytope(Directions):
    """Corners of copies of a polytope in orthogonal subspaces: the geometries of Elhage et al. 2022."""

    kind: Literal["polytope"] = "polytope"
    name: Literal["digon", "triangle", "square", "pentagon", "hexagon", "tetrahedron", "octahedron", "square_antiprism"]
    """The polytope."""
    rotate: bool = True
    """Whether all directions are rotated at random."""

    def check(self, n_features: int, d_in: int) -> None:
        corners, dimensions = CORNERS[self.name].shape
        if n_features % corners:
            raise UserError(
                f"n_features = {n_features}: a {self.name} has {corners} corners; give a multiple of {corners}"
            )
        if n_features // corners * dimensions > d_in:
            raise UserError(
                f"d_in = {d_in}: {n_features // corners} copies of a {self.name} need "
                f"{n_features // corners * dimensions} dimensions; raise d_in or lower n_features"
            )

    def rows(self, n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
        corners = CORNERS[self.name]
        block = torch.block_diag(*[corners] * (n_features // len(corners)))
        return block @ rotation(d_in, draw)[: block.shape[1]] if self.rotate else fill(block, d_in)


class Explicit(Directions):
    """Explicit vectors, normalised and padded with zeros to `d_in`."""

    kind: Literal["explicit"] = "explicit"
    vectors: tuple[tuple[float, ...], ...] = Field(min_length=1)
    """One vector per feature; its length is ignored (magnitudes belong to `values`), and zeros mean not represented."""
    rotate: bool = False
    """Whether all directions are rotated at random."""

    @model_validator(mode="after")
    def _one_length(self) -> Explicit:
        if len(set(map(len, self.vectors))) != 1:
            raise UserError("vectors: different lengths; give every vector the same number of entries")
        return self

    def check(self, n_features: int, d_in: int) -> None:
        if len(self.vectors) != n_features:
            raise UserError(f"directions.vectors: {len(self.vectors)} vectors; give n_features = {n_features}")
        if len(self.vectors[0]) > d_in:
            raise UserError(f"directions.vectors: {len(self.vectors[0])} numbers each; give at most d_in = {d_in}")

    def rows(self, n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
        vectors = fill(torch.tensor(self.vectors), d_in)
        length = vectors.norm(dim=1, keepdim=True)
        unit = vectors / length.where(length > 0, torch.ones(()))
        return unit @ rotation(d_in, draw) if self.rotate else unit


AnyDirections = Annotated[RandomDirections | Orthonormal | Repelled | Polytope | Explicit, Field(discriminator="kind")]


def rotation(d_in: int, draw: torch.Generator) -> Float[Tensor, "d_in d_in"]:
    """A random orthogonal matrix with the uniform (Haar) distribution (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(d_in, d_in, generator=draw, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def fill(rows: Float[Tensor, "n d"], d_in: int) -> Float[Tensor, "n d_in"]:
    """The rows, padded with zeros to `d_in` columns."""
    return torch.cat([rows, torch.zeros(len(rows), d_in - rows.shape[1])], dim=1)


def polygon(n: int) -> Float[Tensor, "n 2"]:
    """The corners of a regular polygon on the unit circle."""
    angle = 2 * math.pi * torch.arange(n) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _tetrahedron() -> Float[Tensor, "4 3"]:
    signs = [s for s in product((1.0, -1.0), repeat=3) if math.prod(s) > 0]
    return torch.tensor(signs) / math.sqrt(3)


def _square_antiprism() -> Float[Tensor, "8 3"]:
    """Two squares, one rotated by 45 degrees, at heights +-1/sqrt 3, which make it a tight frame."""
    circle = polygon(8)[[0, 2, 4, 6, 1, 3, 5, 7]] * math.sqrt(2 / 3)
    height = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1]) / math.sqrt(3)
    return torch.cat([circle, height[:, None]], dim=1)


CORNERS: dict[str, Tensor] = {
    "digon": torch.tensor([[1.0], [-1.0]]),
    "triangle": polygon(3),
    "square": polygon(4),
    "pentagon": polygon(5),
    "hexagon": polygon(6),
    "tetrahedron": _tetrahedron(),
    "octahedron": torch.cat([torch.eye(3), -torch.eye(3)]),
    "square_antiprism": _square_antiprism(),
}
"""The unit vectors to the corners of each polytope."""

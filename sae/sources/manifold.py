"""Features of several shapes in superposition: sparse ones, dense ones, circles and clusters.

    x = sum_g c_g f_g + sum_i r_i (cos(theta_i) u_i + sin(theta_i) v_i) + m_k + s n_k + noise

Sparse features f_g are active with `probability`, dense ones in half of the samples, which uses up the few active
latents of a sparse dictionary. A circle i is active with `circle_probability`, at a uniform angle theta_i in the plane
(u_i, v_i), with radius r_i. Every sample belongs to one cluster k with centre m_k, and deviates from it by a Gaussian
n_k in a plane of the cluster, scaled by s = `stray`. All planes and directions are drawn at random, and so overlap.

The true directions are those of the sparse features, the dense features and the clusters' centres, in this order; the
planes of the circles are the true subspaces. There is no right number of directions for a circle.

Olah and Batson 2023, 'Feature manifold toy model'; Hindupur et al. 2025, 'Projecting assumptions' (SpaDE), for clusters
with an intrinsic dimension; Engels et al. 2024, 'Not all language model features are linear', for circles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.fast_random import uniform
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.source import Batch, Source, Split, Truth
from sae.toys.base import ToyConfig, random_directions
from sae.toys.features.values import AnyValues, Uniform

_DENSE = 0.5
"""The fraction of samples in which a dense feature is active."""


class Config(ToyConfig):
    """Settings of a source of features of several shapes."""

    kind: Literal["manifold"] = "manifold"
    d_in: int = Field(gt=1)
    """The width of the activations."""
    sparse: int = Field(ge=0)
    """The number of sparse features."""
    probability: float = Field(0.02, gt=0, le=1)
    """The probability that a sparse feature is active."""
    dense: int = Field(0, ge=0)
    """The number of dense features, which are active in half of the samples."""
    circles: int = Field(0, ge=0)
    """The number of circles."""
    circle_probability: float = Field(0.1, gt=0, le=1)
    """The probability that a circle is active."""
    clusters: int = Field(0, ge=0)
    """The number of clusters."""
    centre: float = Field(1.0, gt=0)
    """The norm of the clusters' centres."""
    stray: float = Field(0.0, ge=0)
    """The standard deviation of samples around the centre of their cluster, in each of two dimensions."""
    values: AnyValues = Uniform(low=0.5, high=1.0)
    """The distribution of the magnitudes of sparse and dense features and of the radii of circles."""
    noise: float = Field(0.0, ge=0)
    """The standard deviation of Gaussian noise on every coordinate."""

    @model_validator(mode="after")
    def _has_directions(self) -> Config:
        if self.n_features == 0:
            raise UserError("sparse = 0, dense = 0, clusters = 0: no feature has a direction; raise one of them")
        return self

    @property
    def n_features(self) -> int:
        """The number of features that have a direction."""
        return self.sparse + self.dense + self.clusters

    @property
    def provides(self) -> frozenset[str]:
        return super().provides | ({"subspaces"} if self.circles else set())

    def least_bytes(self) -> dict[str, int]:
        shapes = f"sparse = {self.sparse}, dense = {self.dense}, clusters = {self.clusters}, circles = {self.circles}"
        vectors = self.n_features + 2 * (self.clusters + self.circles)
        return {f"{shapes}, d_in = {self.d_in}": 4 * vectors * self.d_in}

    def tensors(self) -> dict[str, Tensor]:
        rows = random_directions(self.n_features, self.d_in, generator("directions", self.seed))
        planes = {"circles": self.circles, "strays": self.clusters}
        plane_bases = {name: bases(n, self.d_in, generator(name, self.seed)) for name, n in planes.items() if n}
        laws = self.values.tensors(self.sparse + self.dense + self.circles, self.seed)
        values = {f"values.{name}": t.contiguous() for name, t in laws.items()}
        return {"directions": rows, **plane_bases, **values}

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return Manifold(self, tensors)


class Manifold(Source):
    """Samples of such features."""

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.directions = config, tensors["directions"]
        self.laws = {name.removeprefix("values."): t for name, t in tensors.items() if name.startswith("values.")}
        self.strays = tensors.get("strays")
        self.d_in, self.subspaces = config.d_in, tensors.get("circles")
        shares = (
            (config.sparse, config.probability),
            (config.dense, _DENSE),
            (config.clusters, 1 / max(config.clusters, 1)),
        )
        probability = torch.cat([torch.full((n,), p) for n, p in shares])
        self.truth = Truth(self.directions, torch.ones(len(probability), dtype=torch.bool), probability)

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        config, draw = self.config, generator("manifold", self.config.seed, split, step)
        n_sparse, n_dense = config.sparse, config.dense
        rate = torch.cat(
            [
                torch.full((n_sparse,), config.probability),
                torch.full((n_dense,), _DENSE),
                torch.full((config.circles,), config.circle_probability),
            ]
        )
        active = uniform((size, len(rate)), draw) < rate
        strength = torch.zeros(size, len(rate))
        strength[active] = config.values.draw(self.laws, active.nonzero()[:, 1], draw)
        linear, radius = strength.split([n_sparse + n_dense, config.circles], dim=1)
        codes, acts = linear, torch.zeros(size, self.d_in)
        if config.clusters:
            cluster = torch.randint(config.clusters, (size,), generator=draw)
            codes = torch.cat([linear, config.centre * torch.nn.functional.one_hot(cluster, config.clusters)], dim=1)
            assert self.strays is not None
            deviation = config.stray * torch.randn(size, 2, generator=draw)
            acts = acts + (deviation[:, None] @ self.strays[cluster])[:, 0]
        if self.subspaces is not None:
            theta = 2 * math.pi * uniform(radius.shape, draw)
            point = radius[..., None] * torch.stack([theta.cos(), theta.sin()], dim=-1)
            acts = acts + torch.einsum("bck, ckd -> bd", point, self.subspaces)
        acts = acts + codes @ self.directions
        if config.noise:
            acts += config.noise * torch.randn(acts.shape, generator=draw)
        return Batch(acts, codes)


def bases(n: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n 2 d_in"]:
    """Orthonormal bases of `n` random planes."""
    first, second = (random_directions(n, d_in, draw) for _ in range(2))
    second = second - (second * first).sum(-1, keepdim=True) * first
    return torch.stack([first, second / second.norm(dim=-1, keepdim=True)], dim=1)

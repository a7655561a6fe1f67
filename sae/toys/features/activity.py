"""Which features are active in a sample: independently, by a copula, in sets, one of each set, or a fixed number.

Trees of features, in which parents gate their children, are in :mod:`sae.toys.features.tree`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.numerics.fast_random import keep_, uniform
from sae.numerics.seeds import generator
from sae.registry import Settings, UserError
from sae.toys.features.correlation import AnyCorrelation, normals
from sae.toys.features.series import ConstantSeries, PerFeature, probabilities

PROBABILITY = "activity.probability"


class Activity(Settings, ABC):
    """Interface of distributions of the active features."""

    @abstractmethod
    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        """The parameters of the distribution.

        `probability` ``[n_features]``, the share of samples in which each feature is active, is among them if it is
        known exactly, and `parents` ``[n_features]`` if features have parents.

        Raises `UserError` if no distribution satisfies the settings.
        """

    @abstractmethod
    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        """`size` samples, 1 where a feature is active and 0 elsewhere; `tensors` are those of :meth:`tensors`."""


class IndependentActivity(Activity):
    """Every feature is active independently with its own probability."""

    kind: Literal["independent"] = "independent"
    probability: PerFeature
    """Firing probability of each feature."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        p = probabilities(self.probability, n_features, generator("probability", seed), PROBABILITY)
        return {"probability": p.float()}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        p = tensors["probability"]
        return keep_(torch.ones(size, len(p)), p, draw)


class Copula(Activity):
    """Features are active with their own probabilities, correlated by a Gaussian copula."""

    kind: Literal["copula"] = "copula"
    probability: PerFeature
    """Firing probability of each feature."""
    correlation: AnyCorrelation
    """Correlation of the underlying normal variables."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        p = probabilities(self.probability, n_features, generator("probability", seed), PROBABILITY)
        threshold = torch.special.ndtri(p).float()
        return {"probability": p.float(), "threshold": threshold, **self.correlation.tensors(n_features, seed)}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        return (normals(tensors, size, draw) < tensors["threshold"]).float()


class CorrelatedSets(Activity):
    """All features of a set are active together: the correlated sets of Elhage et al. 2022, 'Toy Models of
    Superposition'."""

    kind: Literal["correlated"] = "correlated"
    size: int = Field(gt=0)
    """Features per set."""
    probability: PerFeature
    """Firing probability of each set."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        n_sets = n_sets_of(self.size, n_features)
        p = probabilities(self.probability, n_sets, generator("probability", seed), PROBABILITY)
        return {"probability": p.float().repeat_interleave(self.size)}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        of_sets = tensors["probability"][:: self.size].contiguous()
        return keep_(torch.ones(size, len(of_sets)), of_sets, draw).repeat_interleave(self.size, dim=1)


class OneOf(Activity):
    """At most one feature of each set is active.

    With probability 1 exactly one feature of a set is always active (word class, language). Below 1 these are the
    anticorrelated sets of Elhage et al. 2022, where each feature has density ``probability / size``.
    """

    kind: Literal["one_of"] = "one_of"
    size: int = Field(gt=0)
    """Features per set."""
    probability: PerFeature = ConstantSeries(value=1.0)
    """Probability, for each set, that one of its features is active."""
    weights: tuple[float, ...] | None = None
    """Relative frequency of each feature in a set; None for equal ones."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        n_sets = n_sets_of(self.size, n_features)
        p = probabilities(self.probability, n_sets, generator("probability", seed), PROBABILITY)
        weights = self.weights or (1.0,) * self.size
        if len(weights) != self.size or min(weights) <= 0:
            raise UserError(
                f"activity.weights = {list(weights)}: give one weight above 0 for each of the {self.size} features "
                "of a set"
            )
        share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        cumulative = share.cumsum(0)
        cumulative[-1] = 1  # a gap below 1 from rounding could leave a set of probability 1 without an active feature
        return {
            "probability": (p[:, None] * share).flatten().float(),
            "upper": (p[:, None] * cumulative).float(),
        }

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        upper = tensors["upper"]
        u = uniform((size, len(upper)), draw)[..., None]
        below = torch.cat([torch.zeros(len(upper), 1), upper[:, :-1]], dim=1)
        return ((u >= below) & (u < upper)).float().flatten(1)


class Fixed(Activity):
    """Exactly `k` features are active in every sample, all sets of k with equal probability."""

    kind: Literal["fixed"] = "fixed"
    k: int = Field(gt=0)
    """Active features per sample."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        if self.k > n_features:
            raise UserError(f"activity.k = {self.k}: more than n_features = {n_features}; lower it")
        return {"probability": torch.full((n_features,), self.k / n_features)}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        chosen = uniform((size, len(tensors["probability"])), draw).topk(self.k, dim=1).indices
        return torch.zeros(size, len(tensors["probability"])).scatter_(1, chosen, 1.0)


class Concept(Activity):
    """Exactly `k` features are active in every sample, and the first only together with the first half of the others.

    In a share `probability` of the samples, feature 0 is active with k - 1 of the features that may accompany it (the
    next ``n_features / 2 - 1``, rounded up); in the other samples k of all features but feature 0. This is the
    in-distribution data of Pacela et al. 2026 (arXiv 2603.28744).
    """

    kind: Literal["concept"] = "concept"
    k: int = Field(gt=1)
    """Active features per sample."""
    probability: float = Field(0.5, gt=0, lt=1)
    """Share of samples in which feature 0 is active."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        n_with_first = n_features - n_features // 2 - 1
        if self.k > n_with_first + 1:
            raise UserError(
                f"activity.k = {self.k}: of n_features = {n_features} only {n_with_first} can be active with the "
                f"first; give at most {n_with_first + 1}"
            )
        with_first, without = self.probability * (self.k - 1) / n_with_first, (1 - self.probability) * self.k
        p = torch.full((n_features,), without / (n_features - 1))
        p[1 : n_with_first + 1] += with_first
        p[0] = self.probability
        return {"probability": p, "company": torch.tensor(n_with_first)}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        n = len(tensors["probability"])
        has_first = uniform((size,), draw) < self.probability
        priority = uniform((size, n - 1), draw)
        priority[:, int(tensors["company"]) :].masked_fill_(has_first[:, None], -1)  # not active with the first
        chosen = priority.topk(self.k, dim=1).indices + 1
        # The first feature replaces the last that was chosen.
        chosen[:, -1].masked_fill_(has_first, 0)
        return torch.zeros(size, n).scatter_(1, chosen, 1.0)


def n_sets_of(size: int, n_features: int) -> int:
    """Number of sets of `size` features; raises `UserError` if `size` does not divide `n_features`."""
    if n_features % size:
        raise UserError(f"activity.size = {size}: does not divide n_features = {n_features}; give a divisor")
    return n_features // size

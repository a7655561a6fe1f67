"""Which features are active in a row: independently, by a copula, in sets, one of each set, or always as many.

A tree of features, in which parents gate their children, has a file of its own: :mod:`sae.toys.features.tree`.
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
    """A law of the active features."""

    @abstractmethod
    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        """What rows are drawn from. `probability` ``[n_features]``, the share of rows in which each is active, is
        among them where it is known exactly; `parents` where features have any.

        Raises ``ValueError`` of one line where no law is as the settings ask.
        """

    @abstractmethod
    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        """Rows of 1 where a feature is active and 0 where it is silent."""


class IndependentActivity(Activity):
    """Each by a coin of its own."""

    kind: Literal["independent"] = "independent"
    probability: PerFeature

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        p = probabilities(self.probability, n_features, generator("probability", seed), PROBABILITY)
        return {"probability": p.float()}

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        p = given["probability"]
        return keep_(torch.ones(size, len(p)), p, draw)


class Copula(Activity):
    """Each with its own probability, and tending to go together as `correlation` says."""

    kind: Literal["copula"] = "copula"
    probability: PerFeature
    correlation: AnyCorrelation

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        p = probabilities(self.probability, n_features, generator("probability", seed), PROBABILITY)
        threshold = torch.special.ndtri(p).float()
        return {"probability": p.float(), "threshold": threshold, **self.correlation.tensors(n_features, seed)}

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        return (normals(given, size, draw) < given["threshold"]).float()


class CorrelatedSets(Activity):
    """Features in a set of `size` are active together, by one coin a set: the correlated sets of Elhage et al. 2022,
    'Toy Models of Superposition'. `probability` has a number for each set."""

    kind: Literal["correlated"] = "correlated"
    size: int = Field(gt=0)
    probability: PerFeature

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        n_sets = n_sets_of(self.size, n_features)
        p = probabilities(self.probability, n_sets, generator("probability", seed), PROBABILITY)
        return {"probability": p.float().repeat_interleave(self.size)}

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        of_sets = given["probability"][:: self.size].contiguous()
        return keep_(torch.ones(size, len(of_sets)), of_sets, draw).repeat_interleave(self.size, dim=1)


class OneOf(Activity):
    """At most one feature of each set of `size`: the set is on with `probability` (a number for each set), and one of
    its features, drawn by `weights`, is then active.

    With probability 1 these are groups of which one always holds (word class, language); below 1 the anticorrelated
    sets of Elhage et al. 2022, where each feature has density ``probability / size``.
    """

    kind: Literal["one_of"] = "one_of"
    size: int = Field(gt=0)
    probability: PerFeature = ConstantSeries(value=1.0)
    weights: tuple[float, ...] | None = None

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        n_sets = n_sets_of(self.size, n_features)
        p = probabilities(self.probability, n_sets, generator("probability", seed), PROBABILITY)
        weights = self.weights or (1.0,) * self.size
        if len(weights) != self.size or min(weights) <= 0:
            raise UserError(f"activity.weights: one weight above 0 for each of the {self.size} features of a set")
        share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        cumulative = share.cumsum(0)
        cumulative[-1] = 1  # rounding must leave no gap below 1, or a group of probability 1 could be silent
        return {
            "probability": (p[:, None] * share).flatten().float(),
            "upper": (p[:, None] * cumulative).float(),
        }

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        upper = given["upper"]
        u = uniform((size, len(upper)), draw)[..., None]
        below = torch.cat([torch.zeros(len(upper), 1), upper[:, :-1]], dim=1)
        return ((u >= below) & (u < upper)).float().flatten(1)


class Fixed(Activity):
    """Exactly `k` features in every row, all sets of k as likely."""

    kind: Literal["fixed"] = "fixed"
    k: int = Field(gt=0)

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        if self.k > n_features:
            raise UserError(f"activity.k = {self.k} is more than n_features = {n_features}")
        return {"probability": torch.full((n_features,), self.k / n_features)}

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        chosen = uniform((size, len(given["probability"])), draw).topk(self.k, dim=1).indices
        return torch.zeros(size, len(given["probability"])).scatter_(1, chosen, 1.0)


class Concept(Activity):
    """Exactly `k` features in every row: in a share `probability` of rows the first, with k - 1 of those in its company
    (the next ``n_features / 2 - 1``), in the others k of all but the first.

    Pacela et al. 2026 (arXiv 2603.28744), the rows that they call in distribution.
    """

    kind: Literal["concept"] = "concept"
    k: int = Field(gt=1)
    probability: float = Field(0.5, gt=0, lt=1)

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        company = n_features - n_features // 2 - 1
        if self.k > company + 1:
            raise UserError(
                f"activity.k = {self.k}: the first feature has a company of {company} among n_features = {n_features}; "
                f"give at most {company + 1}"
            )
        with_first, without = self.probability * (self.k - 1) / company, (1 - self.probability) * self.k
        p = torch.full((n_features,), without / (n_features - 1))
        p[1 : company + 1] += with_first
        p[0] = self.probability
        return {"probability": p, "company": torch.tensor(company)}

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        n = len(given["probability"])
        has_first = uniform((size,), draw) < self.probability
        lot = uniform((size, n - 1), draw)
        lot[:, int(given["company"]) :].masked_fill_(has_first[:, None], -1)  # never chosen before one of its company
        chosen = lot.topk(self.k, dim=1).indices + 1
        # The first feature takes the place of the last that was chosen.
        chosen[:, -1].masked_fill_(has_first, 0)
        return torch.zeros(size, n).scatter_(1, chosen, 1.0)


def n_sets_of(size: int, n_features: int) -> int:
    """How many sets there are; a ``ValueError`` where some feature would be left over."""
    if n_features % size:
        raise UserError(f"activity.size = {size} does not divide n_features = {n_features}")
    return n_features // size

"""The distribution of the codes of features.

    c_g = a_g v_g

with a_g the activity (1 or 0; :mod:`sae.toys.features.activity`, :mod:`sae.toys.features.tree`) and v_g the magnitude
(:mod:`sae.toys.features.values`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.numerics.seeds import generator
from sae.toys.features.activity import Concept, Copula, CorrelatedSets, Fixed, IndependentActivity, OneOf
from sae.toys.features.tree import Tree, generations
from sae.toys.features.values import AnyValues

_ROWS_AT_ONCE = 4096
PROBABILITY_BATCHES = 32
"""Number of batches of `_ROWS_AT_ONCE` samples from which probabilities without a closed form are estimated."""

AnyActivity = Annotated[
    IndependentActivity | Copula | CorrelatedSets | OneOf | Fixed | Concept | Tree, Field(discriminator="kind")
]


@dataclass(frozen=True)
class Law:
    """The distribution of the codes: its settings, and the tensors that they and the seed determine."""

    activity: AnyActivity
    """Distribution of the active features."""
    values: AnyValues
    """Distribution of the magnitudes."""
    of_activity: Mapping[str, Tensor]
    """Tensors of `activity`."""
    of_values: Mapping[str, Tensor]
    """Tensors of `values`."""
    levels: list[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]]
    """Children and their parents, level by level from the children of roots down; empty without a tree."""

    @classmethod
    def from_settings(cls, activity: AnyActivity, values: AnyValues, n_features: int, seed: int) -> Law:
        """The distribution of `n_features` features; raises `UserError` if none satisfies the settings."""
        return cls.from_tensors(activity, values, activity.tensors(n_features, seed), values.tensors(n_features, seed))

    @classmethod
    def from_tensors(
        cls,
        activity: AnyActivity,
        values: AnyValues,
        of_activity: Mapping[str, Tensor],
        of_values: Mapping[str, Tensor],
    ) -> Law:
        """The distribution with these tensors of `activity` and `values`."""
        parents = of_activity.get("parents")
        levels = [] if parents is None else [(level, parents[level]) for level in generations(parents)[1:]]
        return cls(activity, values, of_activity, of_values, levels)

    @property
    def n_features(self) -> int:
        return len(self.of_values["mean"])

    @property
    def parents(self) -> Int[Tensor, " n_features"] | None:
        """The index of each feature's parent, -1 for none; None without a tree."""
        return self.of_activity.get("parents")

    def codes(self, size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        """The codes of `size` samples; magnitudes are drawn only for active features."""
        codes = self.activity.draw(self.of_activity, size, draw)
        row, feature = codes.nonzero(as_tuple=True)
        codes[row, feature] = self.values.draw(self.of_values, feature, draw)
        scaled = isinstance(self.activity, Tree) and self.activity.scaled
        for child, parent in self.levels:
            above = codes[:, parent]
            # A parent whose magnitude was rectified to 0 is inactive, and so are its children.
            codes[:, child] *= above / self.of_values["mean"][parent] if scaled else above > 0
        return codes

    def probability(self, seed: int) -> Float[Tensor, " n_features"]:
        """The firing probability of each feature: exact, or estimated from fixed samples if there is no closed form."""
        if "probability" in self.of_activity:
            return self.of_activity["probability"] * self._positive_with_ancestors()
        draw = generator("probability", "estimate", seed)
        batches = (self.codes(_ROWS_AT_ONCE, draw) for _ in range(PROBABILITY_BATCHES))
        return sum((codes.count_nonzero(0) for codes in batches), torch.zeros(())) / (
            _ROWS_AT_ONCE * PROBABILITY_BATCHES
        )

    def _positive_with_ancestors(self) -> Float[Tensor, " n_features"]:
        """The probability that neither a feature's magnitude nor an ancestor's is rectified to 0."""
        positive = self.of_values.get("positive", torch.ones(self.n_features)).clone()
        for child, parent in self.levels:
            positive[child] *= positive[parent]
        return positive

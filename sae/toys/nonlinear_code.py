"""The noun `Code`: activations as a nonlinear function of what is known, so that there are labels, and no direction
for what they name, or only for part of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.registry import Settings
from sae.source import Batch, Truth


class Code(Settings, ABC):
    """A rule that writes what is known into a few dimensions; the source may embed these in more.

    `nonlinear` says, as a clause, why no dictionary of directions is expected to find what the labels name; it is
    empty where one is. `provides` is that of the source: ``labels``, and what there is beside them.
    """

    nonlinear: ClassVar[str] = ""
    provides: ClassVar[frozenset[str]] = frozenset({"labels"})

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """How many dimensions the code itself takes."""

    def tensors(self, seed: int) -> dict[str, Tensor]:
        """What the code is made of beyond its settings."""
        return {}

    @abstractmethod
    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        """Rows in the code's own dimensions, with their labels."""

    def truth(self) -> Truth | None:
        """The features that are directions in the code's own dimensions, where there are any."""
        return None

    def subspaces(self) -> Float[Tensor, "n_subspaces k dimensions"] | None:
        """Orthonormal bases of the subspaces of features that fill more than a direction, where there are any."""
        return None

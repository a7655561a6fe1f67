"""Interface of nonlinear codes: activations with labels that do not all correspond to directions."""

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
    """A function of labelled quantities with values in a few dimensions; the source may embed these in more."""

    nonlinear: ClassVar[str] = ""
    """Why no linear dictionary is expected to find the labelled features, as a clause; empty if one can."""
    provides: ClassVar[frozenset[str]] = frozenset({"labels"})
    """The evidence that a source of this code provides: ``labels``, or also ``truth``, ``codes`` or ``subspaces``."""

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Number of dimensions of the code, before embedding."""

    def tensors(self, seed: int) -> dict[str, Tensor]:
        """Random parameters of the code, a pure function of the settings and the seed."""
        return {}

    @abstractmethod
    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        """`size` samples ``[size, dimensions]`` with their labels; `tensors` are those of :meth:`tensors`."""

    def truth(self) -> Truth | None:
        """The features that are directions in the code's dimensions; None if there are none."""
        return None

    def subspaces(self) -> Float[Tensor, "n_subspaces k dimensions"] | None:
        """Orthonormal bases of the subspaces of multi-dimensional features; None if there are none."""
        return None

"""Interface of baselines: from a source to a dictionary without gradient training.

Every baseline states its budget in its settings and its training cost on the card (:mod:`sae.numerics.fit_cost`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.registry import KindSettings
from sae.source import Source


class BaselineConfig(KindSettings, ABC):
    """Settings of one classical method or control.

    A method that needs the truth is given what the others have to find: it is a ceiling, not a rival.
    """

    interface: ClassVar[str] = "baselines"

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the source must provide, such as ``truth`` for the oracle."""
    seeded: ClassVar[bool] = True
    """Whether the result depends on the seed; a method that does not is run once, not once per seed."""
    fits_targets: ClassVar[bool] = False
    """Whether the method reconstructs a source's targets. The others reconstruct their input, which says nothing of a
    transcoder; they are refused on a source with targets."""

    @abstractmethod
    def fit(self, source: Source, seed: int) -> Dictionary:
        """The dictionary, from training samples of the source."""


def training_rows(source: Source, n_rows: int, seed: int) -> Float[Tensor, "rows d_in"]:
    """`n_rows` training samples (fewer where the source has fewer); different seeds take different samples where the
    source has enough."""
    return training_pairs(source, n_rows, seed)[0]


def training_pairs(
    source: Source, n_rows: int, seed: int
) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_in"]]:
    """The same samples, and what a dictionary reconstructs for each."""
    batch = source.at_most(n_rows, "train", step=seed)
    return batch.acts.to(torch.float32).cpu(), batch.wanted.to(torch.float32).cpu()

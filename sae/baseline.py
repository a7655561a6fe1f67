"""The noun `Method`: from a source to a dictionary. Training is one; every classical baseline is another.

Every method states its budget in its settings, and what was spent on the card (:mod:`sae.numerics.fit_cost`).
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

    `needs` names what the source must provide (``truth`` for the oracle). `seeded` is False where the
    result does not depend on the seed, so that the method is run once and not once a seed. `fits_targets` is True
    where the method gives back a source's targets; the others give back what they read, which says nothing of a
    transcoder, and are refused on a source that has targets.

    A method that needs the truth was given what the others are to find: it is a ceiling, not a rival.
    """

    interface: ClassVar[str] = "baselines"

    needs: ClassVar[frozenset[str]] = frozenset()
    seeded: ClassVar[bool] = True
    fits_targets: ClassVar[bool] = False

    @abstractmethod
    def fit(self, source: Source, seed: int) -> Dictionary: ...


def training_rows(source: Source, n_rows: int, seed: int) -> Float[Tensor, "rows d_in"]:
    """`n_rows` training rows (fewer where the source is smaller); different seeds take different rows where
    the source has them."""
    return training_pairs(source, n_rows, seed)[0]


def training_pairs(
    source: Source, n_rows: int, seed: int
) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_in"]]:
    """The same rows, and what is to be given back for each."""
    batch = source.at_most(n_rows, "train", step=seed)
    return batch.acts.to(torch.float32).cpu(), batch.wanted.to(torch.float32).cpu()

"""The noun `Source`: where activations come from, and what is known of the features in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.registry import Grown, kinds

if TYPE_CHECKING:
    from sae.model.hooked import Site

Split = Literal["train", "choose", "test"]
"""`train` rows fit dictionaries; `choose` rows pick thresholds and fit probes; `test` rows are only ever scored."""


@dataclass(frozen=True)
class Batch:
    """Rows of activations with whatever is known of them.

    `codes` are the true coefficients, non-negative, zero where a feature is silent (toy sources only).
    `labels` are named vectors with one entry a row: 0/1 for a binary property, class ids for many classes.
    `targets` are what a dictionary is to give back where that is not `acts` itself: a transcoder's.
    """

    acts: Float[Tensor, "batch d_in"]
    codes: Float[Tensor, "batch n_features"] | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Float[Tensor, "batch d_in"] | None = None

    @property
    def wanted(self) -> Float[Tensor, "batch d_in"]:
        """What a dictionary is to give back: `targets`, or `acts` where there are none."""
        return self.acts if self.targets is None else self.targets


@dataclass(frozen=True)
class Truth:
    """What is known of the features of a source.

    `directions` are unit rows. `represented` says which features the activations carry at all: recovery is
    scored over those only. `probability` is the share of rows in which a feature is active. `parents` holds
    the index of each feature's parent, -1 for none. Activations are ``codes @ directions + offset + noise`` where
    `kind` is ``exact``; ``responses`` are the directions in which a nonlinear network answers to one feature alone,
    which do not add up where features share neurons: there activations are only near to that sum.
    """

    directions: Float[Tensor, "n_features d_in"]
    represented: Bool[Tensor, " n_features"]
    probability: Float[Tensor, " n_features"]
    importance: Float[Tensor, " n_features"] | None = None
    parents: Int[Tensor, " n_features"] | None = None
    offset: Float[Tensor, " d_in"] | None = None
    kind: Literal["exact", "responses"] = "exact"


class Source(ABC):
    """Yields activations ``[batch, d_in]`` as a pure function of (its own seed, split, step, size)."""

    d_in: int
    truth: Truth | None = None
    subspaces: Float[Tensor, "n_subspaces k d_in"] | None = None
    """Orthonormal bases of the subspaces of features that fill more than a direction, as a circle does."""
    n_rows: Mapping[Split, int | None] = {"train": None, "choose": None, "test": None}
    """How many distinct rows each split has; None where they are drawn without end."""
    has_targets: bool = False
    """Whether every batch has `targets`: dictionaries of the source read one thing and give back another, of the
    same width (a transcoder; Dunefsky, Chlenski and Nanda 2024). `truth` is then of the targets' space."""

    @abstractmethod
    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        """The `size` rows of one step. Finite sources walk their `train` rows in an order that is a
        permutation of the split for each epoch, and the other splits in order, wrapping round."""

    def at_most(self, n: int, split: Split, step: int = 0) -> Batch:
        """`n` rows of a split, or as many as it has."""
        return self.batch(step, min(n, self.n_rows[split] or n), split)

    def labelled(self) -> tuple[Batch, Batch] | None:
        """Rows with real labels, as (choose, test), where the source has any; toy sources have `codes` instead."""
        return None

    def model(self) -> Site | None:
        """Where in a model the activations come from, to splice a dictionary in there, if they come from one."""
        return None


def source_of(x: Tensor | Source, d_in: int) -> Source:
    """A source as it is, a matrix of activations ``[rows, d_in]`` as one that holds a fifth of the rows out;
    a ``ValueError`` of one line where the width is another than `d_in`."""
    if isinstance(x, Tensor) and (x.ndim != 2 or not x.is_floating_point() or not bool(torch.isfinite(x).all())):
        raise ValueError(f"x: a finite float matrix [rows, {d_in}] expected, not {x.dtype} {list(x.shape)}")
    source = kinds("sae.sources")["tensor"].Rows(x.detach()) if isinstance(x, Tensor) else x
    if source.d_in != d_in:
        raise ValueError(f"x: rows of width {source.d_in}, but the dictionary takes {d_in}")
    return source


Progress = Callable[[int, int, str], None]
"""How long work tells of itself: ``progress(done, total, unit)``; the caller draws the bar."""


class SourceConfig(Grown, ABC):
    """Settings of one kind of source.

    `provides` tells, before any work starts, what a metric may ask for: ``truth``, ``parents``, ``codes``,
    ``labels``, ``subspaces``, ``model``, and whether there are ``targets``. `stage` is the pipeline stage that prepares
    it: ``generate`` for what is computed from the settings alone or read from a file of activations, ``stream`` for
    what a model must be run for.
    """

    stage: ClassVar[Literal["generate", "stream"]] = "generate"
    later: ClassVar[frozenset[str]] = frozenset({"target"})
    seed: int = 0

    @property
    @abstractmethod
    def provides(self) -> frozenset[str]: ...

    @property
    def nonlinear(self) -> str:
        """Why no dictionary of directions is expected to find the features, as a clause; empty where one is."""
        return ""

    def external_files(self) -> dict[str, Path]:
        """Files outside the run that the settings name; their content is part of the step's key."""
        return {}

    @abstractmethod
    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Writes into `directory` what :meth:`open` needs. Interrupted, it goes on where it stopped."""

    @abstractmethod
    def open(self, directory: Path, device: str) -> Source:
        """The source, read from a directory that :meth:`prepare` filled."""

"""The noun `Source`: where activations come from, and what is known of the features in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.seeds import Permutation, derive, epoch_rows
from sae.registry import KindSettings, UserError, VersionedSettings

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


class TensorSource(Source):
    """Rows of a matrix in memory; a fixed random split keeps held-out rows from training."""

    def __init__(
        self,
        acts: Float[Tensor, "rows d_in"],
        labels: dict[str, Tensor] | None = None,
        heldout: float = 0.2,
        seed: int = 0,
        targets: Float[Tensor, "rows d_in"] | None = None,
    ) -> None:
        n = len(acts)
        order = Permutation(n, derive("rows", seed))(np.arange(n))
        kept = max(1, round(n * heldout / 2))
        parts = {"choose": order[:kept], "test": order[kept : 2 * kept], "train": order[2 * kept :]}
        if len(parts["train"]) == 0 or len(parts["test"]) == 0:
            raise UserError(f"source: {n} rows are too few to train on and to hold some out")
        self.acts, self.seed, self.d_in = acts, seed, acts.shape[1]
        self.labels, self.targets, self.has_targets = labels or {}, targets, targets is not None
        self.parts: dict[Split, np.ndarray] = parts  # pyright: ignore
        self.n_rows = {split: len(rows) for split, rows in self.parts.items()}

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        part = self.parts[split]
        if split == "train":
            where = epoch_rows(step, size, len(part), self.seed)
        else:
            where = (step * size + np.arange(size)) % len(part)
        index = torch.from_numpy(part[where])
        return Batch(
            self.acts.index_select(0, index),
            labels={name: t[index] for name, t in self.labels.items()},
            targets=None if self.targets is None else self.targets.index_select(0, index),
        )

    def labelled(self) -> tuple[Batch, Batch] | None:
        if not self.labels:
            return None
        return self.batch(0, len(self.parts["choose"]), "choose"), self.batch(0, len(self.parts["test"]), "test")


def as_source(given: Tensor | tuple[Tensor, Tensor] | Source, d_in: int | None = None) -> Source:
    """A source as it is; a matrix ``[rows, d_in]``, or a pair of inputs and targets, as a :class:`TensorSource`.

    A fifth of the rows of a matrix is held out from training. Raises ``ValueError`` of one line where a matrix is not
    finite, floating point and two-dimensional, or has another width than `d_in`.
    """
    if isinstance(given, Source):
        source = given
    else:
        x, y = given if isinstance(given, tuple) else (given, None)
        for name, matrix in (("x", x), ("y", y)):
            if matrix is not None:
                _check_matrix(name, matrix)
        if y is not None and y.shape != x.shape:
            raise UserError(
                f"y: shape {list(y.shape)} where x has {list(x.shape)}; a dictionary reads and writes one width"
            )
        source = TensorSource(x.detach().float(), targets=None if y is None else y.detach().float())
    if d_in is not None and source.d_in != d_in:
        raise UserError(f"x: rows of width {source.d_in}, but the dictionary takes {d_in}")
    return source


def _check_matrix(name: str, matrix: Tensor) -> None:
    if matrix.ndim != 2 or not matrix.is_floating_point():
        found = f"{matrix.dtype} {list(matrix.shape)}"
        raise UserError(f"{name}: a floating-point matrix [rows, d_in] is needed, not {found}")
    if not bool(torch.isfinite(matrix).all()):
        raise UserError(f"{name}: the activations contain NaN or infinite values")


Progress = Callable[[int, int, str], None]
"""How long work tells of itself: ``progress(done, total, unit)``; the caller draws the bar."""


class SourceConfig(VersionedSettings, KindSettings, ABC):
    """Settings of one kind of source.

    `provides` tells, before any work starts, what a metric may ask for: ``truth``, ``parents``, ``codes``,
    ``labels``, ``subspaces``, ``model``, and whether there are ``targets``. `stage` is the pipeline stage that prepares
    it: ``generate`` for what is computed from the settings alone or read from a file of activations, ``stream`` for
    what a model must be run for.
    """

    interface: ClassVar[str] = "sources"
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

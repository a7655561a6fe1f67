"""Interface of sources: where activations come from, and what is known of the features in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.arrays import Numbers, as_tensor
from sae.numerics.norms import N_MEDIAN, norm_limit, within_norm
from sae.numerics.processes import ALONE, Processes
from sae.numerics.seeds import Permutation, derive, epoch_rows
from sae.registry import KindSettings, UserError, VersionedSettings

if TYPE_CHECKING:
    from sae.model.site import Site

Split = Literal["train", "choose", "test"]
"""`train` samples fit dictionaries; `choose` samples, the validation split, pick thresholds and fit probes; `test`
samples are only scored."""


_Made = TypeVar("_Made", bound="Source")

LEFT_OUT = "left_out"
"""The entry of a card and of ``source.json`` on rows of too large a norm."""


@dataclass(frozen=True)
class Batch:
    """A batch of activations with whatever is known of them."""

    acts: Float[Tensor, "batch d_in"]
    """The activations."""
    codes: Float[Tensor, "batch n_features"] | None = None
    """True coefficients, non-negative, zero where a feature is inactive (toy sources only)."""
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    """Named vectors with one entry per sample: 0/1 for a binary property, class ids for several classes."""
    targets: Float[Tensor, "batch d_in"] | None = None
    """What a dictionary reconstructs where that is not `acts`: the output side of a transcoder."""

    @property
    def wanted(self) -> Float[Tensor, "batch d_in"]:
        """What a dictionary reconstructs: `targets`, or `acts` where there are none."""
        return self.acts if self.targets is None else self.targets


@dataclass(frozen=True)
class Truth:
    """What is known of the features of a source: ``acts = codes @ directions + offset + noise``."""

    directions: Float[Tensor, "n_features d_in"]
    """One unit row per feature."""
    represented: Bool[Tensor, " n_features"]
    """Which features the activations represent at all; recovery is scored over those only."""
    probability: Float[Tensor, " n_features"]
    """The share of samples in which each feature is active; NaN where unknown."""
    importance: Float[Tensor, " n_features"] | None = None
    """The weight of each feature in the loss of the toy network that represents it."""
    parents: Int[Tensor, " n_features"] | None = None
    """The index of each feature's parent, -1 for none."""
    offset: Float[Tensor, " d_in"] | None = None
    """A constant that is added to every sample."""
    kind: Literal["exact", "responses"] = "exact"
    """``exact`` where the equation holds; ``responses`` where directions are a nonlinear network's responses to one
    feature alone, which do not add up where features share neurons, so that the equation holds only approximately."""


class Source(ABC):
    """Yields activations ``[batch, d_in]`` as a pure function of (its own seed, split, step, size)."""

    d_in: int
    """Width of the activations."""
    truth: Truth | None = None
    """What is known of the features; None for activations of unknown origin."""
    subspaces: Float[Tensor, "n_subspaces k d_in"] | None = None
    """Orthonormal bases of the subspaces of features that have more than one dimension, such as a circle."""
    n_rows: Mapping[Split, int | None] = {"train": None, "choose": None, "test": None}
    """Number of distinct samples of each split; None where they are drawn without end."""
    norm_limit: float | None = None
    """Rows of a greater norm are left out of every split; None where no row is left out."""
    left_out: Mapping[Split, int] = {}
    """Number of rows of each split that `norm_limit` left out."""
    has_targets: bool = False
    """Whether every batch has `targets`, so that dictionaries are transcoders (Dunefsky, Chlenski and Nanda 2024): they
    read one vector and reconstruct another of the same width. `truth` then belongs to the space of the targets."""

    facts: Mapping[str, Any] = {}
    """What is known of the activations, among it of the model that they come from; empty for others."""
    made_from: SourceConfig | None = None
    """The settings that the source was made from, which cards name; None where it was made without any."""

    processes: Processes = ALONE
    """The processes that read the same training batches at the same time; a source may divide the work of computing
    them, which must not change them."""
    computes_ahead: bool = False
    """Whether training batches are computed in the background, ahead of the one that was read last. They are then best
    read one at a time, in order."""

    @abstractmethod
    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        """The `size` samples of one step.

        Finite sources go through their `train` samples in a new permutation each epoch, and through the other splits in
        order, starting again at the end.
        """

    def at_most(self, n: int, split: Split, step: int = 0) -> Batch:
        """`n` samples of a split, or all of them where it has fewer."""
        return self.batch(step, min(n, self.n_rows[split] or n), split)

    @contextmanager
    def reading(self, n_samples: int) -> Generator[None]:
        """Context in which training reads no more than its first `n_samples` samples; work in the background, if any,
        ends with it."""
        yield

    def forecast(self, n_samples: int) -> str:
        """What it takes to read the first `n_samples` training samples, as a sentence; empty where it is little."""
        return ""

    def figures(self) -> Mapping[str, float]:
        """Numbers to show beside the progress of training, such as the rate at which samples are computed."""
        return {}

    def labelled(self) -> tuple[Batch, Batch] | None:
        """Labelled samples, as (choose, test), where the source has labels; toy sources have `codes` instead."""
        return None

    def model(self) -> Site | None:
        """The hook point of a model that the activations come from, to splice a dictionary in there; None for
        others."""
        return None


class TensorSource(Source):
    """The rows of a matrix in memory, in a fixed random split: a share `heldout` of them is kept from training.

    With `max_norm`, rows whose norm is above that many times the median norm are left out of every split. The median is
    that of the first 16,384 training rows in the order of the split. Targets count as well, with a median of their own.

    Raises `UserError` where a value is NaN or infinite, or a label is not a whole number from 0.
    """

    def __init__(
        self,
        acts: Float[Tensor, "rows d_in"],
        labels: dict[str, Tensor] | None = None,
        heldout: float = 0.2,
        seed: int = 0,
        targets: Float[Tensor, "rows d_in"] | None = None,
        max_norm: float | None = None,
    ) -> None:
        n = len(acts)
        order = Permutation(n, derive("rows", seed))(np.arange(n))
        kept = max(1, round(n * heldout / 2))
        parts = {"choose": order[:kept], "test": order[kept : 2 * kept], "train": order[2 * kept :]}
        if len(parts["train"]) == 0 or len(parts["test"]) == 0:
            raise UserError(f"source: {n} rows are too few to train on and to hold some out")
        for name, matrix in (("x", acts), ("y", targets)):
            if matrix is not None:
                check_finite(name, matrix)
        for name, label in (labels or {}).items():
            check_label(f"labels: {name!r}", label, n)
        self.acts, self.seed, self.heldout, self.d_in = acts, seed, heldout, acts.shape[1]
        self.labels, self.targets, self.has_targets = labels or {}, targets, targets is not None
        self.parts: dict[Split, np.ndarray] = parts  # pyright: ignore
        if max_norm is not None:
            self._leave_out(max_norm)
        self.n_rows = {split: len(rows) for split, rows in self.parts.items()}

    def _leave_out(self, max_norm: float) -> None:
        """Removes the rows of too large a norm from every split."""
        first = torch.from_numpy(self.parts["train"][:N_MEDIAN])
        within = torch.ones(len(self.acts), dtype=torch.bool)
        for matrix in (self.acts, *([] if self.targets is None else [self.targets])):
            limit = norm_limit(matrix[first], max_norm)
            within &= within_norm(matrix, limit)
            self.norm_limit = limit if matrix is self.acts else self.norm_limit
        before = self.parts
        self.parts = {split: rows[within.numpy()[rows]] for split, rows in before.items()}
        self.left_out = {split: len(before[split]) - len(rows) for split, rows in self.parts.items()}
        empty = next((split for split, rows in self.parts.items() if len(rows) == 0), None)
        if empty is not None:
            raise UserError(f"max_norm = {max_norm:g}: it leaves no row in the split {empty!r}; raise it")

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


def as_source(given: Numbers | tuple[Numbers, Numbers] | Source, d_in: int | None = None) -> Source:
    """A source as it is; a matrix ``[rows, d_in]``, or a pair of inputs and targets, as a :class:`TensorSource`.

    A matrix is a tensor, a NumPy array or a list of rows. A fifth of its rows is held out from training. Raises
    `UserError` where it is not two-dimensional, floating point and finite in float32, or has another width than `d_in`.
    """
    if isinstance(given, Source):
        source = given
    else:
        if isinstance(given, tuple) and len(given) != 2:
            raise UserError(f"x: a tuple of {len(given)}; give a matrix [rows, d_in], or a pair of inputs and targets")
        x, y = given if isinstance(given, tuple) else (given, None)
        x, y = _matrix("x", x), None if y is None else _matrix("y", y)
        if y is not None and y.shape != x.shape:
            raise UserError(
                f"y: shape {list(y.shape)} where x has {list(x.shape)}; a dictionary reads and writes one width"
            )
        source = TensorSource(x, targets=y)
    if d_in is not None and source.d_in != d_in:
        raise UserError(f"x: rows of width {source.d_in}, but the dictionary takes {d_in}")
    return source


def _matrix(name: str, given: Numbers) -> Float[Tensor, "rows d_in"]:
    matrix = as_tensor(name, given)
    if isinstance(given, list) and not matrix.is_floating_point():
        matrix = matrix.float()  # a list of rows may hold only whole numbers; a tensor of integers is token ids
    if matrix.ndim != 2 or not matrix.is_floating_point():
        found = f"{matrix.dtype} {list(matrix.shape)}"
        raise UserError(f"{name}: a floating-point matrix [rows, d_in] is needed, not {found}")
    single = matrix.float()
    if matrix.element_size() > single.element_size():
        beyond = int((torch.isinf(single) & ~torch.isinf(matrix)).any(-1).sum())
        if beyond:
            raise UserError(
                f"{name}: {beyond} of {len(matrix)} rows have values beyond float32; scale them, or remove these rows"
            )
    return single


LARGEST = 1e18
"""Largest size of an activation: sums of the squares of larger ones are infinite in float32."""


def check_finite(name: str, matrix: Float[Tensor, "rows width"]) -> None:
    """Raises `UserError` where a row has NaN or infinite values, or values above `LARGEST`."""
    # Finite extremes prove that all values are finite, with less work and memory.
    if not matrix.numel() or bool(max(-matrix.min(), matrix.max()) <= LARGEST):
        return
    n = int((~torch.isfinite(matrix)).any(-1).sum())
    if n:
        raise UserError(
            f"{name}: the activations contain NaN or infinite values in {n} of {len(matrix)} rows; remove these rows"
        )
    raise UserError(
        f"{name}: the activations have values up to {float(matrix.abs().max()):.3g}, whose squares are beyond float32; "
        "divide all by a constant"
    )


def check_label(name: str, label: Tensor, n_rows: int) -> None:
    """Raises `UserError` where a label is not one whole number from 0 (0/1, or a class id) for each of `n_rows` rows.

    A comparison with NaN is false, so an unknown label would count as a negative.
    """
    if label.shape != (n_rows,):
        raise UserError(f"{name}: shape {list(label.shape)}, expected [{n_rows}]; give one label for each row")
    values = label.detach().cpu().double()
    wrong = ~torch.isfinite(values) | (values < 0) | (values != values.trunc())
    if bool(wrong.any()):
        raise UserError(
            f"{name}: {int(wrong.sum())} of {n_rows} entries are NaN, infinite, negative or fractional, such as "
            f"{float(values[wrong][0]):g}; give 0 or 1, or class ids from 0, and leave out rows without a label"
        )


def check_codes_known(codes: Float[Tensor, "rows n_features"], name: str = "codes") -> None:
    """Raises `UserError` where true coefficients are NaN, infinite or negative: comparisons would call them
    inactive."""
    for wrong, what, remedy in (
        (~torch.isfinite(codes), "NaN or infinite values", "remove those rows first"),
        (codes < 0, "negative values", "split a signed feature into two, one for each direction"),
    ):
        n = int(wrong.any(-1).sum())
        if n:
            raise UserError(f"{name}: {what} in {n} of {len(codes)} rows; {remedy}")


def left_out_facts(source: Source) -> dict[str, Any]:
    """The entry ``left_out`` of a card and of ``source.json``: the limit of the norm, and the rows above it."""
    if source.norm_limit is None:
        return {}
    return {LEFT_OUT: {"norm_limit": source.norm_limit, "rows": dict(source.left_out)}}


Progress = Callable[[int, int, str], None]
"""Called by long work to report itself: ``progress(done, total, unit)``; the caller draws the bar."""


MODEL = "model"
"""The folder, in that of a source, of the model that was trained for it."""


class ModelSettings(VersionedSettings, ABC):
    """Settings of a model that is trained before the sources of its activations, once for all of them."""

    @abstractmethod
    def external_files(self) -> dict[str, Path]:
        """Files outside the run that the settings name; their content is part of the step's key."""

    @abstractmethod
    def train(self, directory: Path, progress: Progress, device: str) -> None:
        """Trains the model into `directory`, unless it is there. Called again after an interruption, it continues."""

    def summary(self, directory: Path) -> str:
        """How good the trained model in `directory` is, as a sentence; empty where nothing is to be said."""
        return ""


class SourceConfig(VersionedSettings, KindSettings, ABC):
    """Settings of one kind of source."""

    interface: ClassVar[str] = "sources"
    stage: ClassVar[Literal["generate", "stream"]] = "generate"
    """The pipeline stage that prepares the source: ``generate`` computes it from its settings or reads a file of
    activations, ``stream`` runs a model."""
    trains: ClassVar[type[ModelSettings] | None] = None
    """The class of :attr:`model_settings`, for a kind that has them."""
    later: ClassVar[frozenset[str]] = frozenset({"target"})
    together: ClassVar[frozenset[str]] = frozenset()
    """The settings in which sources may differ that share the work of :meth:`prepare_together`."""
    seed: int = 0
    """Seed of the data: features, samples and splits."""

    @property
    @abstractmethod
    def provides(self) -> frozenset[str]:
        """What metrics may use, known before any work starts: a subset of ``truth``, ``parents``, ``codes``,
        ``labels``, ``subspaces``, ``model`` and ``targets``."""

    def mark(self, source: _Made) -> _Made:
        """The source, marked as made from these settings. A kind of your own calls it at the end of :meth:`open`, so
        that cards of dictionaries name the settings."""
        source.made_from = self
        return source

    @property
    def planned_width(self) -> int | None:
        """`d_in` as far as it is known before any work starts; None where a model must be loaded, or a file read."""
        width: object = getattr(self, "d_in", None)
        return width if isinstance(width, int) else None

    @property
    def model_settings(self) -> ModelSettings | None:
        """The settings of a model to train first, in a step of its own; it is given to :meth:`prepare` in the folder
        :data:`MODEL` of its directory, and trained there where it is not given. None for most kinds."""
        return None

    @property
    def read_together(self) -> bool:
        """Whether training reads sources that are prepared together in one pass, because they share its work."""
        return False

    @property
    def nonlinear(self) -> str:
        """Why no dictionary of directions can find the features, as a clause; empty where one can."""
        return ""

    def check_plan(self) -> None:
        """Raises `UserError` for what can be known to fail, on any machine, before a model is loaded.

        It is called when a run is planned.
        """
        return

    def external_files(self) -> dict[str, Path]:
        """Files outside the run that the settings name; their content is part of the step's key."""
        return {}

    @abstractmethod
    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Writes into `directory` what :meth:`open` needs. Called again after an interruption, it continues."""

    @classmethod
    def prepare_together(cls, sources: Sequence[tuple[SourceConfig, Path]], progress: Progress, device: str) -> None:
        """Prepares sources of this kind that differ in the settings `together` only, each in its directory."""
        for source, directory in sources:
            source.prepare(directory, progress, device)

    @abstractmethod
    def open(self, directory: Path, device: str) -> Source:
        """The source, from a directory that :meth:`prepare` filled."""

    @classmethod
    def open_together(cls, sources: Sequence[tuple[SourceConfig, Path]], device: str) -> list[Source]:
        """Opens sources that were prepared together, to be read at the same steps; they may share work in the
        background."""
        return [source.open(directory, device) for source, directory in sources]

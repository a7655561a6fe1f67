"""Base classes of toy sources, whose activations follow from a few tensors that the settings and a seed determine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.numerics.atomic_write import write_tensors
from sae.numerics.memory import check_memory
from sae.numerics.seeds import derive, epoch_rows
from sae.registry import UserError
from sae.source import Batch, Progress, Source, SourceConfig, Split

MOST_CHECKED_FEATURES = 10_000_000
"""The largest number of features whose settings are checked one by one when a run is planned."""
PIECE = 4096
"""Samples of a pool that are drawn at once."""


class ToyConfig(SourceConfig):
    """Settings of a source of samples of known features, endless or with a finite training set."""

    FILE: ClassVar[str] = "source.safetensors"
    """Name of the file of tensors."""
    later: ClassVar[frozenset[str]] = frozenset({"n_train"})
    n_train: int | None = Field(None, gt=0)
    """Number of training samples; None for an endless supply."""

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"truth", "codes"})

    def least_bytes(self) -> dict[str, int]:
        """The least memory that the tensors take, by the setting that determines it."""
        n, d_in = (getattr(self, name, None) or 1 for name in ("n_features", "d_in"))
        return {f"n_features = {n}, d_in = {d_in}": 4 * n * d_in}

    def check_sizes(self) -> None:
        """Raises `UserError` where this machine has too little memory for the tensors."""
        for setting, needed in self.least_bytes().items():
            check_memory(f"source: {setting}", needed)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the source, a pure function of the settings; `directions` is among them."""

    @abstractmethod
    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        """The source that these tensors define."""

    def build(self) -> Source:
        """The source, in memory."""
        self.check_sizes()
        return self._limited(self.assemble(self.tensors()))

    def _limited(self, source: Source) -> Source:
        return self.mark(source if self.n_train is None else Pool(source, self.n_train, self.seed))

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        self.check_sizes()
        directory.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors()
        write_tensors(directory / self.FILE, tensors)
        progress(len(tensors["directions"]), len(tensors["directions"]), "features")

    def open(self, directory: Path, device: str) -> Source:
        from safetensors.torch import load_file

        # Cloned, because a tensor's offset in a file changes its alignment and so the last bits of a product.
        return self._limited(self.assemble({name: t.clone() for name, t in load_file(directory / self.FILE).items()}))


class Pool(Source):
    """A source restricted to its first `n_train` training samples; held-out splits stay endless.

    Every epoch is another permutation of the pool. A larger pool starts with the samples of a smaller one, so a sweep
    over sizes only adds samples. They are kept in memory, ``4 (d_in + n_features)`` bytes each.
    """

    def __init__(self, source: Source, n_train: int, seed: int) -> None:
        self.source, self.n_train, self.seed = source, n_train, derive("pool", seed)
        self.d_in, self.truth, self.subspaces = source.d_in, source.truth, source.subspaces
        self.n_rows = {**source.n_rows, "train": n_train}

    @cached_property
    def rows(self) -> Batch:
        """The samples of the pool, drawn on first use."""
        width = self.d_in + (0 if self.truth is None else len(self.truth.directions))
        check_memory(f"source.n_train = {self.n_train}", 4 * width * self.n_train)
        pieces = [self.source.batch(i, PIECE) for i in range(-(-self.n_train // PIECE))]
        codes = [piece.codes for piece in pieces if piece.codes is not None]
        return Batch(
            torch.cat([piece.acts for piece in pieces])[: self.n_train],
            torch.cat(codes)[: self.n_train] if codes else None,
            {name: torch.cat([piece.labels[name] for piece in pieces])[: self.n_train] for name in pieces[0].labels},
        )

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        if split != "train":
            return self.source.batch(step, size, split)
        pool, index = self.rows, torch.from_numpy(epoch_rows(step, size, self.n_train, self.seed))
        codes = None if pool.codes is None else pool.codes[index]
        return Batch(pool.acts[index], codes, {name: t[index] for name, t in pool.labels.items()})

    def labelled(self) -> tuple[Batch, Batch] | None:
        return self.source.labelled()


def check_number_of_features(n_features: int) -> None:
    """Raises `UserError` where the features are more than :data:`MOST_CHECKED_FEATURES`, on any machine."""
    if n_features > MOST_CHECKED_FEATURES:
        raise UserError(
            f"n_features = {n_features}: more than {MOST_CHECKED_FEATURES:,} features cannot be checked; lower it"
        )


def random_directions(n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
    """Random unit vectors, uniform on the sphere."""
    rows = torch.randn(n_features, d_in, generator=draw)
    return rows / rows.norm(dim=-1, keepdim=True)


def with_mean(shape: Float[Tensor, " n_features"], mean: float) -> Float[Tensor, " n_features"]:
    """Probabilities proportional to `shape` with mean `mean`; raises `UserError` if one would exceed 1."""
    p = shape * (mean / shape.mean())
    if float(p.max()) > 1:
        raise UserError(
            f"probability = {mean:g}: with this mean the most frequent feature would fire with probability "
            f"{float(p.max()):.3g}; lower it or make the frequencies more equal"
        )
    return p

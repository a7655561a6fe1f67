"""From rows of tokens to shuffled shards of activations, and of targets where they are asked for.

A shard is a pure function of its rows of tokens: interrupted work does what is missing and nothing twice, and ends
with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.activations.corpus import PADDING, Corpus
from sae.activations.labels import LabelledRows
from sae.activations.shards import Shard, write_shard
from sae.model.hooked import Dtype, Model
from sae.model.token_rows import Select
from sae.numerics.seeds import Permutation, derive
from sae.registry import UserError

FIELDS = {"acts": "hook", "targets": "target"}
"""The columns of vectors that a shard may have, and the setting that names the hook point of each."""


@dataclass(frozen=True, eq=False)
class Harvest:
    """How activations are taken from a model; `shard_rows` rows of tokens go into a shard.

    `hooks` names the hook point of each column of vectors: ``acts``, and ``targets`` for a transcoder.
    """

    model: Model
    hooks: Mapping[str, str]
    select: Select
    store_dtype: Dtype
    shard_rows: int
    rows_at_once: int

    def shards(self, directory: Path, name: str, corpus: Corpus) -> Iterator[int]:
        """Writes the shards of a corpus that are not there yet, and yields the number of vectors in each.

        A vector has beside it its `document`, its `row` in the corpus, its `position` there and its `token`.
        """
        for k in range(-(-len(corpus) // self.shard_rows)):
            rows = corpus.shuffled(k * self.shard_rows, (k + 1) * self.shard_rows)
            tokens = corpus.tokens(rows)
            kept = self.select(tokens).kept
            n = int(kept.sum())
            file = shard_file(directory, name, k)
            if not _holds(file, n):
                where = torch.nonzero(kept)
                columns = {
                    "document": corpus.documents(rows)[kept],
                    "row": torch.from_numpy(rows)[where[:, 0]].int(),
                    "position": where[:, 1].int(),
                    "token": tokens[kept],
                }
                # Neighbours in a text are alike; rows were shuffled over the corpus, now vectors over the shard.
                order = torch.from_numpy(Permutation(n, derive("shard", corpus.seed, k))(np.arange(n)))
                columns |= self.vectors(tokens, kept)
                write_shard(file, {name: column[order] for name, column in columns.items()})
            yield n

    def labelled(self, file: Path, rows: LabelledRows) -> None:
        """Writes the vectors at the labelled positions, with ``label.<name>`` columns."""
        at = torch.zeros_like(rows.tokens, dtype=torch.bool)
        at[rows.row.long(), rows.position.long()] = True
        columns = {f"label.{name}": column for name, column in rows.labels.items()}
        write_shard(file, {**self.vectors(rows.tokens, at), "row": rows.row, "position": rows.position, **columns})

    def vectors(
        self, tokens: Int[Tensor, "rows n_tokens"], at: Bool[Tensor, "rows n_tokens"]
    ) -> dict[str, Float[Tensor, "vectors d_in"]]:
        """The activations of every hook at the positions `at`, row by row, in the type that they are stored in."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.hooks}
        for some, where in zip(tokens.split(self.rows_at_once), at.split(self.rows_at_once), strict=True):
            longest = int((some != PADDING).sum(1).max())
            rows = self.select(some[:, :longest])
            every = self.model.activations_at(rows.tokens, rows.attended, list(self.hooks.values()))
            index = where[:, :longest].flatten().nonzero().squeeze(1)
            for name, acts in zip(self.hooks, every, strict=True):
                kept = acts.flatten(0, 1).index_select(0, index.to(acts.device))
                stored = kept.to(getattr(torch, self.store_dtype)).cpu()
                if not _is_finite(stored):
                    raise UserError(
                        f"source.{FIELDS[name]}: {self.hooks[name]} of {self.model.name} gives NaN or infinite values, "
                        f"stored as {self.store_dtype}; use float32 or bfloat16 for dtype and store_dtype"
                    )
                found[name].append(stored)
        return {name: torch.cat(pieces) for name, pieces in found.items()}


def shard_file(directory: Path, name: str, k: int) -> Path:
    return directory / f"{name}-{k:05d}.safetensors"


def _is_finite(acts: Tensor) -> bool:
    """Whether all values are finite; one sum tells it where it does not overflow, which is less work."""
    return bool(acts.sum(dtype=torch.float32).isfinite()) or bool(acts.isfinite().all())


def _holds(file: Path, n_rows: int) -> bool:
    """Whether the shard is there, whole, with so many rows."""
    try:
        return Shard.open(file).n_rows == n_rows
    except (FileNotFoundError, ValueError):
        return False

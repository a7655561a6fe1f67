"""Runs a model over rows of tokens and writes its activations at hook points into shuffled shards.

Several sources that differ in their hook points share every forward pass, which ends at the last of them.

A shard is a pure function of its rows of tokens: an interrupted harvest later writes only the missing shards, with the
same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from sae.numerics.norms import within_norm
from sae.numerics.seeds import Permutation, derive
from sae.registry import UserError

FIELDS = {"acts": "hook", "targets": "target"}
"""The columns of activations that a shard may have, and the setting that names the hook point of each."""


@dataclass(frozen=True, eq=False)
class Harvest:
    """Collects the activations of a model at hook points and writes them to disk."""

    model: Model
    """The model to run."""
    hooks: Sequence[Mapping[str, str]]
    """For each source, the hook point of each column of its activations: ``acts``, and ``targets`` for a
    transcoder."""
    select: Select
    """Marks the positions whose activations are stored."""
    store_dtype: Dtype
    """The type in which they are stored."""
    shard_rows: int
    """The number of rows of tokens per shard."""
    rows_at_once: int
    """The number of rows of tokens per forward pass."""
    fused: bool = False
    """Whether attention is computed by a fused kernel where that gives the same activations."""
    norm_limit: float | None = None
    """Activations of a greater norm are not stored, which is possible for one source at a time; None: all are."""

    def shards(self, directories: Sequence[Path], name: str, corpus: Corpus) -> Iterator[int]:
        """Writes the missing shards of a corpus, each into the directories, one for each of :attr:`hooks`; yields the
        number of activations in each shard.

        Next to every activation are stored its `document`, its `row` in the corpus, its `position` there and its
        `token`. Raises `UserError` if activations are not finite.
        """
        for k in range(-(-len(corpus) // self.shard_rows)):
            rows = corpus.shuffled(k * self.shard_rows, (k + 1) * self.shard_rows)
            tokens = corpus.tokens(rows)
            kept = self.select(tokens).kept
            n = int(kept.sum())
            files, exact = [shard_file(directory, name, k) for directory in directories], self.norm_limit is None
            if not all(_is_complete(file, n, exact) for file in files):
                where = torch.nonzero(kept)
                columns = {
                    "document": corpus.documents(rows)[kept],
                    "row": torch.from_numpy(rows)[where[:, 0]].int(),
                    "position": where[:, 1].int(),
                    "token": tokens[kept],
                }
                for file, vectors in zip(files, self.vectors(tokens, kept), strict=True):
                    if not _is_complete(file, n, exact):
                        self._write(file, columns | vectors, derive("shard", corpus.seed, k))
            yield n if self.norm_limit is None else Shard.open(files[0]).n_rows

    def _write(self, file: Path, columns: Mapping[str, Tensor], seed: int) -> None:
        """Writes a shard, shuffled: neighbours in a text are similar. The rows are shuffled over the corpus, and
        activations over the shard."""
        if self.norm_limit is not None:
            within = within_norm(columns["acts"], self.norm_limit)
            columns = {name: column[within] for name, column in columns.items()}
        n = len(columns["acts"])
        order = torch.from_numpy(Permutation(n, seed)(np.arange(n)))
        write_shard(file, {name: column[order] for name, column in columns.items()})

    def first_vectors(self, corpus: Corpus, n: int) -> Float[Tensor, "vectors d_in"]:
        """The activations of the first rows of tokens in the shuffled order that have `n` or more of them, as they are
        stored."""
        found, begin = list[Tensor](), 0
        while begin < len(corpus) and sum(map(len, found)) < n:
            tokens = corpus.tokens(corpus.shuffled(begin, begin + self.rows_at_once))
            found.append(self.vectors(tokens, self.select(tokens).kept)[0]["acts"])
            begin += self.rows_at_once
        return torch.cat(found)[:n]

    def labelled(self, files: Sequence[Path], rows: LabelledRows) -> None:
        """Writes the activations at the labelled positions, with ``label.<name>`` columns, to one file for each of
        :attr:`hooks`."""
        at = torch.zeros_like(rows.tokens, dtype=torch.bool)
        at[rows.row.long(), rows.position.long()] = True
        columns = {f"label.{name}": column for name, column in rows.labels.items()}
        for file, vectors in zip(files, self.vectors(rows.tokens, at), strict=True):
            write_shard(file, {**vectors, "row": rows.row, "position": rows.position, **columns})

    def vectors(
        self, tokens: Int[Tensor, "rows n_tokens"], at: Bool[Tensor, "rows n_tokens"]
    ) -> list[dict[str, Float[Tensor, "vectors d_in"]]]:
        """The activations of each of :attr:`hooks` at the positions `at`, row by row, in the type in which they are
        stored. Raises `UserError` if they are not finite."""
        by_pass = [[_on_cpu(columns) for columns in piece] for piece in self.pieces(tokens, at)]
        by_source = zip(*by_pass, strict=True)
        return [{name: torch.cat([p[name] for p in pieces]) for name in pieces[0]} for pieces in by_source]

    def pieces(
        self, tokens: Int[Tensor, "rows n_tokens"], at: Bool[Tensor, "rows n_tokens"]
    ) -> Iterator[list[dict[str, Float[Tensor, "vectors d_in"]]]]:
        """As :meth:`vectors`, one forward pass at a time, on the device of the model."""
        hooks = list(dict.fromkeys(hook for columns in self.hooks for hook in columns.values()))
        for part, where in zip(tokens.split(self.rows_at_once), at.split(self.rows_at_once), strict=True):
            longest = _longest(part)
            rows = self.select(part[:, :longest])
            index = where[:, :longest].flatten().nonzero().squeeze(1)
            acts = self.model.activations_at(rows.tokens, rows.attended, hooks, fused=self.fused)
            stored = {hook: self._stored(hook, each, index) for hook, each in zip(hooks, acts, strict=True)}
            yield [{name: stored[hook] for name, hook in columns.items()} for columns in self.hooks]

    def _stored(
        self, hook: str, acts: Float[Tensor, "rows n_tokens d_in"], index: Int[Tensor, " vectors"]
    ) -> Float[Tensor, "vectors d_in"]:
        """The vectors at `index` of all positions, as they are stored."""
        vectors = acts.flatten(0, 1).index_select(0, index.to(acts.device)).to(getattr(torch, self.store_dtype))
        if not _is_finite(vectors):
            name = next(name for columns in self.hooks for name, each in columns.items() if each == hook)
            raise UserError(
                f"source.{FIELDS[name]} = {hook!r}: the activations of {self.model.name} have NaN or infinite values "
                f"in {self.store_dtype}; use float32 or bfloat16 for dtype and store_dtype"
            )
        return vectors


def _on_cpu(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: column.cpu() for name, column in columns.items()}


def shard_file(directory: Path, name: str, k: int) -> Path:
    """The path of shard k of a split."""
    return directory / f"{name}-{k:05d}.safetensors"


def _longest(tokens: Int[Tensor, "rows n_tokens"]) -> int:
    """The number of positions up to the last one that holds a token in any row, on whichever side the padding is."""
    return tokens.shape[1] - int((tokens != PADDING).any(0).flip(0).long().argmax())


def _is_finite(acts: Tensor) -> bool:
    """Whether all values are finite. A finite sum proves it with less work; otherwise all values are checked."""
    return bool(acts.sum(dtype=torch.float32).isfinite()) or bool(acts.isfinite().all())


def _is_complete(file: Path, n_rows: int, exact: bool) -> bool:
    """Whether the shard exists, undamaged, with this number of rows, or at most so many if it is not exact."""
    try:
        found = Shard.open(file).n_rows
        return found == n_rows if exact else found <= n_rows
    except UserError:
        return False

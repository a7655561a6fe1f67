"""Rows of tokens on disk: documents parted into splits and packed into rows for a model.

Documents are parted before anything else is computed, by what they say, so that no text is both trained on and
scored on. Rows lie in shards like activations do, and are read back in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.shards import Shards, write_shard
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import Permutation, derive
from sae.source import Progress, Split

PADDING = -1
"""What stands in a row of tokens where there is none; no token has this id, whatever the tokenizer pads with."""

SPLITS: tuple[Split, ...] = get_args(Split)
ROWS_PER_FILE = 4096

Packing = Literal["packed", "document"]
BosAt = Literal["row", "document", "none"]


def split_of(ids: Sequence[int], seed: int, heldout_share: float) -> Split:
    """The split of a document, by a hash of what it says: copies of one text never part, whatever their order."""
    u = derive("split", seed, np.asarray(ids, dtype=np.int32).tobytes().hex()) / 2**63
    return "choose" if u < heldout_share / 2 else "test" if u < heldout_share else "train"


@dataclass
class Packer:
    """Documents into rows of `context` tokens, each with the document it comes from.

    ``packed``: documents one after another, rows full, a document cut where a row ends; attention reaches over
    document borders. ``document``: every document in rows of its own, the last of them padded.
    """

    context: int
    packing: Packing
    bos_at: BosAt
    bos: int | None
    eos: int | None
    """Ids, None where the tokenizer has none or none is wanted. An id of 0 is an id."""
    _tokens: list[int] = field(default_factory=list[int])
    _documents: list[int] = field(default_factory=list[int])

    def add(self, document: int, ids: Sequence[int]) -> Iterator[Int[np.ndarray, "2 context"]]:
        """Takes a document in and yields the rows that are full: tokens, and their documents."""
        before = [self.bos] if self.bos_at == "document" and self.bos is not None else []
        after = [self.eos] if self.eos is not None else []
        tokens = [*before, *ids, *after]
        self._tokens += tokens
        self._documents += [document] * len(tokens)
        lead = [self.bos] if self.bos_at == "row" and self.bos is not None else []
        room = self.context - len(lead)
        while len(self._tokens) >= room or (self.packing == "document" and self._tokens):
            row = np.full((2, self.context), PADDING, dtype=np.int32)
            filled = len(lead) + min(room, len(self._tokens))
            row[0, :filled] = lead + self._tokens[:room]
            row[1, :filled] = [self._documents[0]] * len(lead) + self._documents[:room]
            del self._tokens[:room], self._documents[:room]
            yield row


@dataclass(frozen=True)
class PositionSelection:
    """Which positions count: neither padding nor the `special` ids; not the first one if `drop_first`.

    The first position attends to nothing but itself, so its activations are outliers, with BOS or without.
    """

    special: tuple[int, ...]
    drop_first: bool

    @classmethod
    def of(cls, tokenizer: Any, drop_first: bool) -> PositionSelection:
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return cls(tuple(sorted({i for i in ids if i is not None})), drop_first)

    def __call__(self, tokens: Int[Tensor, "rows n_tokens"]) -> TokenRows:
        """Rows for the model, from ids with :data:`PADDING` where there is none."""
        attended = tokens != PADDING
        kept = attended & ~torch.isin(tokens, torch.tensor(self.special, dtype=tokens.dtype, device=tokens.device))
        if self.drop_first:
            kept[:, 0] = False
        return TokenRows(tokens.clamp(min=0).long(), attended, kept)


@dataclass
class _Writer:
    """The rows of one split on their way to disk."""

    directory: Path
    split: Split
    packer: Packer
    select: PositionSelection
    wanted: int | None
    documents: int = 0
    rows: int = 0
    tokens: int = 0
    _waiting: list[NDArray[np.int32]] = field(default_factory=list[NDArray[np.int32]])

    @property
    def full(self) -> bool:
        return self.wanted is not None and self.tokens >= self.wanted

    def add(self, document: int, ids: Sequence[int]) -> None:
        if self.full:
            return
        self.documents += 1
        for row in self.packer.add(document, ids):
            self._waiting.append(row)
            self.tokens += int(self.select(torch.from_numpy(row[:1])).kept.sum())
            if len(self._waiting) == ROWS_PER_FILE:
                self.flush()
            if self.full:
                return

    def flush(self) -> None:
        if self._waiting:
            rows = torch.from_numpy(np.stack(self._waiting))
            _write(self.directory, self.split, self.rows // ROWS_PER_FILE, rows[:, 0], rows[:, 1])
            self.rows += len(rows)
            self._waiting.clear()


def write_corpus(
    directory: Path,
    documents: Iterable[list[int]],
    packers: Mapping[Split, Packer],
    select: PositionSelection,
    wanted: Mapping[Split, int | None],
    split_seed: int,
    heldout_share: float,
    progress: Progress,
) -> dict[str, dict[str, int]]:
    """Reads documents until every split has the vectors `wanted` (None: all there are) and writes their rows.

    Returns how many documents, rows and tokens (those that count) each split has. Writing is repeatable: the
    same documents give the same files.
    """
    writers = {s: _Writer(directory, s, packers[s], select, wanted[s]) for s in SPLITS}
    train = writers["train"]
    for number, ids in enumerate(documents):
        writers[split_of(ids, split_seed, heldout_share)].add(number, ids)
        if number % 1000 == 0:
            progress(train.tokens, train.wanted or train.tokens, "tokens read")
        # By luck of the hash, few documents can leave a held-out split almost empty: then reading goes on.
        share = heldout_share / 4 * train.tokens
        if train.full and all(w.full if w.wanted else w.tokens >= max(share, 1) for w in writers.values()):
            break
    for writer in writers.values():
        writer.flush()
    return {s: {"documents": w.documents, "rows": w.rows, "tokens": w.tokens} for s, w in writers.items()}


def write_rows(directory: Path, split: Split, tokens: Int[Tensor, "rows n_tokens"]) -> None:
    """Writes rows that are there already, each a document of its own."""
    document = torch.arange(len(tokens))[:, None].expand_as(tokens)
    for k, (some, its) in enumerate(zip(tokens.split(ROWS_PER_FILE), document.split(ROWS_PER_FILE), strict=True)):
        _write(directory, split, k, some.int(), its.int())


def _write(directory: Path, split: Split, k: int, tokens: Tensor, document: Tensor) -> None:
    write_shard(_file(directory, split, k), {"tokens": tokens, "document": document})


def _file(directory: Path, split: Split, k: int) -> Path:
    return directory / f"rows-{split}-{k:05d}.safetensors"


@dataclass(frozen=True)
class Corpus:
    """The rows of one split, in their order and shuffled."""

    shards: Shards
    seed: int

    @classmethod
    def open(cls, directory: Path, split: Split, n_rows: int, seed: int) -> Corpus:
        n_files = -(-n_rows // ROWS_PER_FILE)
        return cls(Shards([_file(directory, split, k) for k in range(n_files)]), derive("shuffle", seed, split))

    def __len__(self) -> int:
        return self.shards.n_rows

    def shuffled(self, begin: int, end: int) -> NDArray[np.int64]:
        """The rows at places `begin` to `end` of a shuffled order that is the same in every run."""
        return Permutation(len(self), self.seed)(np.arange(begin, min(end, len(self))))

    def tokens(self, rows: NDArray[np.int64]) -> Int[Tensor, "rows n_tokens"]:
        return self.shards.rows(rows, "tokens")

    def documents(self, rows: NDArray[np.int64]) -> Int[Tensor, "rows n_tokens"]:
        return self.shards.rows(rows, "document")

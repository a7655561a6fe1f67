"""Rows of tokens on disk: documents assigned to splits and packed into rows for a model.

The split of a document is a hash of its tokens, so no text is both trained on and scored on. Rows are stored in shards,
as activations are, and are read back in any order.
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
from sae.model.token_rows import TokenRows, first_attended
from sae.numerics.seeds import Permutation, derive
from sae.source import Progress, Split

PADDING = -1
"""The id at padding in stored rows; unlike a tokenizer's padding id, no token has it."""

SPLITS: tuple[Split, ...] = get_args(Split)
ROWS_PER_FILE = 4096

Packing = Literal["packed", "document"]
BosAt = Literal["row", "document", "none"]


def split_of(ids: Sequence[int], seed: int, heldout_share: float) -> Split:
    """The split of a document, by a hash of its tokens: copies of a text are always in the same split."""
    u = derive("split", seed, np.asarray(ids, dtype=np.int32).tobytes().hex()) / 2**63
    return "choose" if u < heldout_share / 2 else "test" if u < heldout_share else "train"


@dataclass
class Packer:
    """Packs documents into rows of tokens, and keeps the document of each token."""

    context: int
    """The number of tokens in a row."""
    packing: Packing
    """``packed``: documents are concatenated and cut into full rows, so attention crosses document borders.
    ``document``: every document starts a new row, and its last row is padded."""
    bos_at: BosAt
    """Whether BOS begins every row, every document, or nothing."""
    bos: int | None
    """The id of BOS; None if the tokenizer has none."""
    eos: int | None
    """The id to end documents with; None for no EOS."""
    _tokens: list[int] = field(default_factory=list[int])
    _documents: list[int] = field(default_factory=list[int])

    def add(self, document: int, ids: Sequence[int]) -> Iterator[Int[np.ndarray, "2 context"]]:
        """Adds a document and yields the finished rows: tokens, and the document of each."""
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
    """Selects the positions whose activations count: neither padding nor special tokens."""

    special: tuple[int, ...]
    """Token ids that do not count."""
    drop_first: bool
    """Whether the first token of a row does not count. It attends only to itself, so its activations are outliers,
    with BOS or without, and wherever padding puts it."""

    @classmethod
    def of(cls, tokenizer: Any, drop_first: bool) -> PositionSelection:
        # An encoder's tokenizer frames texts with [CLS] and [SEP].
        framing = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
        ids = (getattr(tokenizer, name, None) for name in framing)
        return cls(tuple(sorted({i for i in ids if i is not None})), drop_first)

    def __call__(self, tokens: Int[Tensor, "rows n_tokens"]) -> TokenRows:
        """Model input from token ids, which are :data:`PADDING` at padding."""
        attended = tokens != PADDING
        kept = attended & ~torch.isin(tokens, torch.tensor(self.special, dtype=tokens.dtype, device=tokens.device))
        if self.drop_first:
            kept &= ~first_attended(attended)
        return TokenRows(tokens.clamp(min=0).long(), attended, kept)


@dataclass
class _Writer:
    """Packs and writes the rows of one split, until it has `target` tokens (None: no limit)."""

    directory: Path
    split: Split
    packer: Packer
    select: PositionSelection
    target: int | None
    documents: int = 0
    rows: int = 0
    tokens: int = 0
    _unwritten: list[NDArray[np.int32]] = field(default_factory=list[NDArray[np.int32]])

    @property
    def full(self) -> bool:
        return self.target is not None and self.tokens >= self.target

    def add(self, document: int, ids: Sequence[int]) -> None:
        if self.full:
            return
        self.documents += 1
        for row in self.packer.add(document, ids):
            self._unwritten.append(row)
            self.tokens += int(self.select(torch.from_numpy(row[:1])).kept.sum())
            if len(self._unwritten) == ROWS_PER_FILE:
                self.flush()
            if self.full:
                return

    def flush(self) -> None:
        if self._unwritten:
            rows = torch.from_numpy(np.stack(self._unwritten))
            _write(self.directory, self.split, self.rows // ROWS_PER_FILE, rows[:, 0], rows[:, 1])
            self.rows += len(rows)
            self._unwritten.clear()


def write_corpus(
    directory: Path,
    documents: Iterable[list[int]],
    packers: Mapping[Split, Packer],
    select: PositionSelection,
    targets: Mapping[Split, int | None],
    split_seed: int,
    heldout_share: float,
    progress: Progress,
) -> dict[str, dict[str, int]]:
    """Writes the rows of documents until every split has as many counted tokens as `targets` says (None: all).

    Returns the number of documents, rows and counted tokens of each split. The same documents always give the same
    files.
    """
    writers = {s: _Writer(directory, s, packers[s], select, targets[s]) for s in SPLITS}
    train = writers["train"]
    for number, ids in enumerate(documents):
        writers[split_of(ids, split_seed, heldout_share)].add(number, ids)
        if number % 1000 == 0:
            progress(train.tokens, train.target or train.tokens, "tokens read")
        # With few documents the hash can leave a held-out split almost empty; then more documents are read.
        share = heldout_share / 4 * train.tokens
        if train.full and all(w.full if w.target else w.tokens >= max(share, 1) for w in writers.values()):
            break
    for writer in writers.values():
        writer.flush()
    return {s: {"documents": w.documents, "rows": w.rows, "tokens": w.tokens} for s, w in writers.items()}


def write_rows(directory: Path, split: Split, tokens: Int[Tensor, "rows n_tokens"]) -> None:
    """Writes finished rows of tokens, each a separate document."""
    documents = torch.arange(len(tokens))[:, None].expand_as(tokens)
    parts = zip(tokens.split(ROWS_PER_FILE), documents.split(ROWS_PER_FILE), strict=True)
    for k, (part, part_documents) in enumerate(parts):
        _write(directory, split, k, part.int(), part_documents.int())


def _write(directory: Path, split: Split, k: int, tokens: Tensor, document: Tensor) -> None:
    write_shard(_file(directory, split, k), {"tokens": tokens, "document": document})


def _file(directory: Path, split: Split, k: int) -> Path:
    return directory / f"rows-{split}-{k:05d}.safetensors"


@dataclass(frozen=True)
class Corpus:
    """The stored rows of tokens of one split."""

    shards: Shards
    """The files with the rows."""
    seed: int
    """The seed of the shuffled order."""

    @classmethod
    def open(cls, directory: Path, split: Split, n_rows: int, seed: int) -> Corpus:
        n_files = -(-n_rows // ROWS_PER_FILE)
        return cls(Shards([_file(directory, split, k) for k in range(n_files)]), derive("shuffle", seed, split))

    def __len__(self) -> int:
        return self.shards.n_rows

    @property
    def width(self) -> int:
        """The number of tokens in a row."""
        return self.shards.width("tokens")

    def shuffled(self, begin: int, end: int) -> NDArray[np.int64]:
        """The indices of the rows at positions `begin` to `end` of the shuffled order, which is the same in every
        run."""
        return Permutation(len(self), self.seed)(np.arange(begin, min(end, len(self))))

    def tokens(self, rows: NDArray[np.int64]) -> Int[Tensor, "rows n_tokens"]:
        """The tokens of the rows, :data:`PADDING` at padding."""
        return self.shards.rows(rows, "tokens")

    def documents(self, rows: NDArray[np.int64]) -> Int[Tensor, "rows n_tokens"]:
        """The document of every token of the rows."""
        return self.shards.rows(rows, "document")

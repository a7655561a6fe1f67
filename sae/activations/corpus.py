"""Rows of tokens on disk: stored in shards, as activations are, and read back in any order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.packing import PADDING
from sae.activations.shards import Shards, write_shard
from sae.activations.tokeniser import SPLITS
from sae.model.token_rows import TokenRows, first_attended
from sae.numerics.seeds import Permutation, derive
from sae.source import Split

__all__ = ["PADDING", "ROWS_PER_FILE", "SPLITS", "Corpus", "PositionSelection", "rows_file", "write_part", "write_rows"]

ROWS_PER_FILE = 4096


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


def write_rows(directory: Path, split: Split, tokens: Int[Tensor, "rows n_tokens"]) -> None:
    """Writes finished rows of tokens, each a separate document."""
    documents = torch.arange(len(tokens))[:, None].expand_as(tokens)
    parts = zip(tokens.split(ROWS_PER_FILE), documents.split(ROWS_PER_FILE), strict=True)
    for k, (part, part_documents) in enumerate(parts):
        write_part(directory, split, k, part.int(), part_documents.int())


def write_part(directory: Path, split: Split, k: int, tokens: Tensor, document: Tensor) -> None:
    """Writes one file of rows: their tokens, and the document of each."""
    write_shard(rows_file(directory, split, k), {"tokens": tokens, "document": document})


def rows_file(directory: Path, split: Split, k: int) -> Path:
    """The path of file k of a split."""
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
        return cls(Shards([rows_file(directory, split, k) for k in range(n_files)]), derive("shuffle", seed, split))

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

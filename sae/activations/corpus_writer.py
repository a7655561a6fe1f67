"""Writes the rows of tokens of documents: packs those of each split into rows, and these into files.

An interrupted run goes on from the state that was saved last and writes the same files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sae.activations.corpus import ROWS_PER_FILE, PositionSelection, rows_file, write_part
from sae.activations.corpus_state import SAVE_DOCUMENTS, CorpusState, Progressed
from sae.activations.packing import Packer
from sae.activations.shards import Shard
from sae.activations.text_chunks import Reading
from sae.activations.text_workers import in_order, usable_processes
from sae.activations.tokeniser import SPLITS, TokenisedChunk, Tokeniser
from sae.registry import UserError
from sae.source import Progress, Split

REPORT_SECONDS = 0.5
"""The least time between two reports of progress."""


class _Packed(NamedTuple):
    """Rows that documents finish."""

    numbers: NDArray[np.int64]
    """The numbers of the documents."""
    rows: NDArray[np.int32]
    """The rows, ``[rows, 2, context]``."""
    tokens: NDArray[np.int64]
    """The number of counted tokens of the split with each row."""
    ends: NDArray[np.int32]
    """The number of the document that finishes each row."""

    def reached(self, tokens: int | float) -> int | None:
        """The first row with which there are so many tokens."""
        row = int(np.searchsorted(self.tokens, tokens))
        return row if row < len(self.tokens) else None

    def until(self, document: int, rows: int | None = None) -> _Packed:
        """The rows that are finished with a document, or the first of them."""
        rows = int(np.searchsorted(self.ends, document, side="right")) if rows is None else rows
        n_documents = int(np.searchsorted(self.numbers, document, side="right"))
        return _Packed(self.numbers[:n_documents], self.rows[:rows], self.tokens[:rows], self.ends[:rows])


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
    unwritten: list[NDArray[np.int32]] = field(default_factory=list[NDArray[np.int32]])

    @property
    def full(self) -> bool:
        return self.target is not None and self.tokens >= self.target

    def pack(self, numbers: NDArray[np.int64], ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> _Packed:
        """The rows that documents finish, up to the one with which there are `target` tokens."""
        if self.full:
            numbers, ids, lengths = numbers[:0], ids[:0], lengths[:0]
        rows = self.packer.add(numbers, ids, lengths)
        kept = self.select(torch.from_numpy(rows[:, 0])).kept.sum(1).numpy()
        packed = _Packed(numbers, rows, self.tokens + kept.cumsum(), rows[:, 1].max(1))
        last = None if self.target is None else packed.reached(self.target)
        return packed if last is None else packed.until(int(packed.ends[last]), last + 1)

    def add(self, packed: _Packed) -> bool:
        """Adds rows; returns whether this filled a file."""
        self.documents += len(packed.numbers)
        if len(packed.rows):
            self.unwritten.append(packed.rows)
            self.tokens = int(packed.tokens[-1])
        return self._write(ROWS_PER_FILE)

    def flush(self) -> None:
        """Writes the rows that do not fill a file."""
        self._write(1)

    def _write(self, least: int) -> bool:
        """Writes files of rows as long as there are at least so many."""
        if sum(map(len, self.unwritten)) < least:
            return False
        rows = np.concatenate(self.unwritten)
        while len(rows) >= least:
            part, rows = torch.from_numpy(rows[:ROWS_PER_FILE]), rows[ROWS_PER_FILE:]
            write_part(self.directory, self.split, self.rows // ROWS_PER_FILE, part[:, 0], part[:, 1])
            self.rows += len(part)
        self.unwritten = [rows.copy()] if len(rows) else []
        return True

    def progressed(self) -> Progressed:
        unwritten = np.concatenate([np.zeros((0, 2, self.packer.context), dtype=np.int32), *self.unwritten])
        counts = {"documents": self.documents, "rows": self.rows, "tokens": self.tokens}
        return Progressed(counts, {f"{self.split}.rows": unwritten, f"{self.split}.left": self.packer.left})

    def go_on(self, counts: Mapping[str, int], arrays: Mapping[str, NDArray[np.int32]]) -> None:
        """Takes over what another writer has :meth:`progressed` to."""
        self.documents, self.rows, self.tokens = counts["documents"], counts["rows"], counts["tokens"]
        self.packer.left = arrays[f"{self.split}.left"]
        self.unwritten = [arrays[f"{self.split}.rows"]]

    def has_files_of(self, counts: Mapping[str, int]) -> bool:
        """Whether the files are there that a state builds on."""
        try:
            files = (rows_file(self.directory, self.split, k) for k in range(counts["rows"] // ROWS_PER_FILE))
            return all(Shard.open(file).n_rows == ROWS_PER_FILE for file in files)
        except UserError:
            return False


@dataclass
class CorpusWriter:
    """Writes the rows of documents until every split has as many counted tokens as `targets` says (None: all).

    The same documents always give the same files.
    """

    directory: Path
    """Where the files are written."""
    packers: Mapping[Split, Packer]
    """The packer of each split."""
    select: PositionSelection
    """Selects the tokens that are counted."""
    targets: Mapping[Split, int | None]
    """The number of counted tokens of each split."""
    heldout_share: float
    """The fraction of documents that are held out from training."""
    state: CorpusState
    """Where it is kept how far the writing is."""

    def __post_init__(self) -> None:
        self._writers: dict[Split, _Writer] = {
            split: _Writer(self.directory, split, self.packers[split], self.select, self.targets[split])
            for split in SPLITS
        }
        self._documents, self._unsaved, self._wrote, self._reported = 0, 0, False, 0.0

    def write(
        self,
        chunks_from: Callable[[Any], Generator[TokenisedChunk]],
        check: Callable[[Sequence[int], int], None],
        progress: Progress,
    ) -> dict[str, dict[str, int]]:
        """Writes the rows of the chunks that `chunks_from` gives, from a position on; None is the first.

        Returns the number of documents, rows and counted tokens of each split. Raises the error of a chunk that has
        one; `check` raises that of token ids that are refused.
        """
        position = self._go_on()
        self._report(progress)
        with closing(chunks_from(position)) as chunks:
            for chunk in chunks:
                if self._add(chunk):
                    break
                if chunk.refused:
                    check(chunk.refused, self._documents + 1)
                if chunk.error is not None:
                    raise chunk.error
                if (self._wrote or self._unsaved >= SAVE_DOCUMENTS) and self.state.is_due:
                    # Files are reported before a state builds on them: whoever takes checksums of the folder then has
                    # theirs, and the next run finds them.
                    self._report(progress)
                    self._save(chunk.position)
                elif time.monotonic() - self._reported >= REPORT_SECONDS:
                    self._report(progress)
        for writer in self._writers.values():
            writer.flush()
        self._report(progress)
        return {s: dict(w.progressed().facts) for s, w in self._writers.items()}

    def _add(self, chunk: TokenisedChunk) -> bool:
        """Adds the documents of a chunk; returns whether all splits are complete."""
        of_token = np.repeat(chunk.splits, chunk.lengths)
        numbers = np.arange(self._documents, self._documents + len(chunk.lengths))
        self._documents += len(numbers)
        self._unsaved += len(numbers)
        packed = dict[Split, _Packed]()
        for index, (split, writer) in enumerate(self._writers.items()):
            own = chunk.splits == index
            packed[split] = writer.pack(numbers[own], chunk.ids[of_token == index], chunk.lengths[own])
        last = self._last_document(packed)
        for split, writer in self._writers.items():
            self._wrote |= writer.add(packed[split] if last is None else packed[split].until(last))
        return last is not None

    def _last_document(self, packed: Mapping[Split, _Packed]) -> int | None:
        """The document with which all splits have their tokens; None if none is the last.

        With few documents the hash can leave a held-out split almost empty; then more documents are read.
        """
        train = self._writers["train"]
        n_train = int(packed["train"].tokens[-1]) if len(packed["train"].rows) else train.tokens
        if train.target is None or n_train < train.target:
            return None
        share = max(self.heldout_share / 4 * n_train, 1)
        last = -1
        for split, writer in self._writers.items():
            needed = writer.target if writer.target else share
            if writer.tokens < needed:
                row = packed[split].reached(needed)
                if row is None:
                    return None
                last = max(last, int(packed[split].ends[row]))
        return last

    def _report(self, progress: Progress) -> None:
        train, self._reported = self._writers["train"], time.monotonic()
        progress(train.tokens, train.target or train.tokens, "tokens read")

    def _save(self, position: Any) -> None:
        of_splits = {split: writer.progressed() for split, writer in self._writers.items()}
        facts = {"documents": self._documents, "position": position} | {s: p.facts for s, p in of_splits.items()}
        self.state.save(Progressed(facts, {name: a for p in of_splits.values() for name, a in p.arrays.items()}))
        self._unsaved, self._wrote = 0, False

    def _go_on(self) -> Any:
        """Takes over the state that was saved last; returns the position to read from."""
        saved = self.state.load()
        if saved is None or not all(w.has_files_of(saved.facts[s]) for s, w in self._writers.items()):
            self.state.remove()
            for rows in self.directory.glob("rows-*.safetensors"):  # of a text that was another
                rows.unlink()
            return None
        for split, writer in self._writers.items():
            writer.go_on(saved.facts[split], saved.arrays)
        self._documents = saved.facts["documents"]
        return saved.facts["position"]


def write_text(
    writer: CorpusWriter, reading: Reading, tokeniser: Tokeniser, progress: Progress
) -> dict[str, dict[str, int]]:
    """Writes the rows of a text, tokenised in as many processes as this one may use threads, see
    :meth:`CorpusWriter.write`. Raises `UserError` if there is no document."""
    text, processes = tokeniser.text, usable_processes()
    try:
        splits = writer.write(
            lambda position: in_order(tokeniser, reading.chunks(position), processes), tokeniser.check, progress
        )
        if not any(split["documents"] for split in splits.values()):
            raise text.no_text()
    except UserError:
        # A connection to the hub that fails is better tomorrow; an error in files is there until they are changed.
        if text.local:
            writer.state.remove()
        raise
    return splits

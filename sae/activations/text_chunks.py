"""Documents in chunks, each with the position behind it, from which reading can go on later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae.activations.text_files import JsonLine
from sae.registry import UserError

CHUNK_DOCUMENTS = 1024
"""The most documents of a chunk that is read from files."""
CHUNK_SIZE = 2**18
"""The number of characters or token ids with which a chunk is complete."""

Item = str | list[int] | JsonLine
"""A document, or the line of a file that has it."""


class IdLists(NamedTuple):
    """Documents that are lists of token ids, as arrays."""

    ids: NDArray[Any]
    """The integers of all documents, one after the other."""
    lengths: NDArray[np.int64]
    """The number of integers of each document."""


@dataclass(frozen=True)
class Chunk:
    """Some documents in a row."""

    documents: list[Item] | IdLists
    """The documents, empty ones among them."""
    position: Any
    """Where the next chunk begins, in JSON: reading goes on there if it is given this."""
    error: UserError | None = None
    """Why reading ended after these documents, if it did. It is raised by those who get so far: a run that has enough
    tokens before that does not depend on how far it has read ahead."""


@dataclass(frozen=True)
class Reading:
    """Documents that can be read from any position on."""

    identity: Any
    """What the documents are, in JSON: positions are those of a reading with the same identity."""
    chunks: Callable[[Any], Iterator[Chunk]]
    """The chunks from a position on; from the first on for None."""


def concatenated(parts: Sequence[list[Item] | IdLists]) -> list[Item] | IdLists:
    """Documents of one form in one piece."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, IdLists)]
    if arrays:
        ids, lengths = zip(*arrays, strict=True)
        return IdLists(np.concatenate(ids), np.concatenate(lengths))
    return [document for part in parts if not isinstance(part, IdLists) for document in part]


def chunks_of(readers: Sequence[Callable[[], Iterable[Item]]], position: Any) -> Iterator[Chunk]:
    """The chunks of files, each read by one of `readers`, from a position on. A chunk may go across files."""
    file, skipped = position or (0, 0)
    documents, size, after = list[Item](), 0, position
    located = _located(readers, file, skipped)
    try:
        for document, after in located:
            documents.append(document)
            size += len(document.text if isinstance(document, JsonLine) else document)
            if len(documents) == CHUNK_DOCUMENTS or size >= CHUNK_SIZE:
                yield Chunk(documents, after)
                documents, size = [], 0
    except UserError as error:
        yield Chunk(documents, after, error)
        return
    if documents:
        yield Chunk(documents, after)


def _located(
    readers: Sequence[Callable[[], Iterable[Item]]], first: int, skipped: int
) -> Iterator[tuple[Item, tuple[int, int]]]:
    """Every document with the position behind it: the file, and the number of its documents that are read."""
    for file in range(first, len(readers)):
        begin = skipped if file == first else 0
        for n, document in enumerate(islice(readers[file](), begin, None), begin + 1):
            yield document, (file, n)

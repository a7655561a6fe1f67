"""From chunks of documents to their token ids and splits: the work that can be done in several processes.

The split of a document is a hash of its tokens, so no text is both trained on and scored on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from sae.activations.text import Text, check_token_ids, check_tokenizer, is_empty
from sae.activations.text_chunks import Chunk, IdLists
from sae.numerics.seeds import derive
from sae.registry import UserError
from sae.source import Split

SPLITS: tuple[Split, ...] = get_args(Split)
COMPARED = 16
"""The number of texts on which the two ways to call a tokenizer are compared."""


def split_of(ids: Sequence[int] | NDArray[np.int32], seed: int, heldout_share: float) -> Split:
    """The split of a document, by a hash of its tokens: copies of a text are always in the same split."""
    u = derive("split", seed, np.asarray(ids, dtype=np.int32).tobytes().hex()) / 2**63
    return "choose" if u < heldout_share / 2 else "test" if u < heldout_share else "train"


@dataclass(frozen=True)
class TokenisedChunk:
    """The token ids of some documents in a row, without empty documents."""

    ids: NDArray[np.int32]
    """The ids of all documents, one after the other."""
    lengths: NDArray[np.int64]
    """The number of ids of each document."""
    splits: NDArray[np.int8]
    """The index of each document's split in :data:`SPLITS`."""
    position: Any
    """Where the next chunk begins, see :class:`~sae.activations.text_chunks.Chunk`."""
    error: UserError | None = None
    """Why there are no more documents after these, if so."""
    refused: Sequence[int] = ()
    """The token ids of the document after these, if the model does not have all of them."""


@dataclass
class Tokeniser:
    """Gives the token ids of the documents of chunks, without special tokens; a leading BOS of given ids is dropped."""

    text: Text
    """What the documents are from."""
    tokenizer: Any
    """The tokenizer of the model."""
    d_vocab: int
    """The number of tokens that the model has."""
    seed: int
    """The seed of the hash that gives the splits."""
    heldout_share: float
    """The fraction of documents that are held out from training."""
    _direct: bool | None = field(default=None, init=False)

    def __call__(self, chunk: Chunk) -> TokenisedChunk:
        found = chunk.documents
        error, refused = chunk.error, list[int]()
        if isinstance(found, IdLists):
            ids, lengths, refused = self._of_arrays(found)
        else:
            documents = list[str | list[int]]()
            try:
                for document in map(self.text.document, found):
                    if not is_empty(document):
                        documents.append(document)
                ids, lengths, refused = self._of_documents(documents)
            except UserError as refusal:
                error = refusal
                ids, lengths, refused = self._of_documents(documents)
        return TokenisedChunk(ids, lengths, self._splits(ids, lengths), chunk.position, error, refused)

    @property
    def identity(self) -> list[Any]:
        """What the token ids depend on besides the documents, in JSON."""
        rust = getattr(self._rust, "to_str", lambda: type(self.tokenizer).__name__)()
        return [hashlib.sha256(rust.encode()).hexdigest(), self.tokenizer.bos_token_id, self.d_vocab]

    def check(self, refused: Sequence[int], number: int) -> None:
        """Raises `UserError` for the ids of document `number`, from 1, if the model does not have all of them."""
        remedy = "give ids of the model's tokenizer, without padding and without -100"
        check_token_ids(refused, self.d_vocab, f"source.column: document {number}", remedy)

    def _of_documents(
        self, documents: Sequence[str | list[int]]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], list[int]]:
        """The ids and lengths of documents up to one whose ids are refused, and those ids."""
        texts = iter(self._tokens([d for d in documents if isinstance(d, str)]))
        lists, refused = list[Sequence[int]](), list[int]()
        for document in documents:
            if isinstance(document, str):
                tokens = next(texts)
                check_tokenizer(tokens, self.d_vocab)
                lists.append(tokens)
                continue
            if not 0 <= min(document) <= max(document) < self.d_vocab:
                refused = document
                break
            lists.append(document[1:] if document[0] == self.tokenizer.bos_token_id else document)
        lengths = np.array([len(each) for each in lists], dtype=np.int64)
        return np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum())), lengths, refused

    def _of_arrays(self, lists: IdLists) -> tuple[NDArray[np.int32], NDArray[np.int64], list[int]]:
        """As :meth:`_of_documents`, for documents that are given as arrays."""
        ids, lengths = lists.ids, lists.lengths[lists.lengths > 0]
        ends, refused = lengths.cumsum(), list[int]()
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.d_vocab:
            first = int(np.flatnonzero((ids < 0) | (ids >= self.d_vocab))[0])
            wrong = int(np.searchsorted(ends, first, side="right"))
            begin = int(ends[wrong] - lengths[wrong])
            refused = ids[begin : ends[wrong]].tolist()
            ids, lengths, ends = ids[:begin], lengths[:wrong], ends[:wrong]
        ids, starts = ids.astype(np.int32), ends - lengths
        bos = self.tokenizer.bos_token_id
        framed = ids[starts] == bos if bos is not None else np.zeros(len(lengths), dtype=bool)
        if framed.any():
            ids, lengths = np.delete(ids, starts[framed]), lengths - framed
        return ids, lengths, refused

    def _splits(self, ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> NDArray[np.int8]:
        ends = lengths.cumsum().tolist()
        parts = (ids[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True))
        return np.array([SPLITS.index(split_of(part, self.seed, self.heldout_share)) for part in parts], dtype=np.int8)

    def _tokens(self, texts: list[str]) -> Iterable[Sequence[int]]:
        """The token ids of texts."""
        if not texts:
            return []
        if self._direct is None:
            # A tokenizer that does more than its Rust part is called as a whole. The first call also switches off
            # truncation and padding, which a tokenizer's file may ask for.
            few = texts[:COMPARED]
            self._direct = hasattr(self._rust, "encode_batch_fast") and self._called(few) == self._encoded(few)
        return self._encoded(texts) if self._direct else self._called(texts)

    @property
    def _rust(self) -> Any:
        return getattr(self.tokenizer, "backend_tokenizer", None)

    def _called(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        # Without the masks and offsets that a call makes; the ids are the same.
        return [encoding.ids for encoding in self._rust.encode_batch_fast(texts, add_special_tokens=False)]

"""Documents from files and data sets, read one at a time, and their tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sae.model.loading import is_path
from sae.registry import MissingFileError, UserError

STRETCH = 4000
"""The least length, in characters, of the documents that running text is cut into."""


@dataclass(frozen=True)
class Text:
    """A source of documents: a .txt or .jsonl file, a folder of a data set, or a data set on the hub, streamed."""

    name: str
    """The file, the folder or the hub id."""
    subset: str | None = None
    """The configuration of a data set on the hub."""
    split: str = "train"
    """The split of a data set on the hub."""
    column: str = "text"
    """The field of a record that holds the document: a string, or a list of token ids."""
    separator: str | None = None
    """The string between the documents of a .txt file. Default: it is running text, which is cut at the first blank
    line after :data:`STRETCH` characters, so that rows hold connected text."""

    @property
    def local(self) -> bool:
        """Whether the documents are on this machine, not on the hub."""
        return is_path(self.name) or Path(self.name).suffix in (".txt", ".jsonl")

    def read(self) -> Iterator[str | list[int]]:
        """The documents in order, without empty ones.

        Raises `MissingFileError` if there is no such file or folder, `UserError` if it cannot be read.
        """
        path = Path(self.name).expanduser()
        if self.local and not path.exists():
            raise MissingFileError(f"source.text = {self.name!r}: does not exist; correct the path")
        if path.suffix == ".txt":
            documents: Iterable[str | list[int]] = _pieces(path, self.separator)
        elif path.suffix == ".jsonl":
            documents = (self._column(record, f"{path}, line {n}") for n, record in json_lines(path))
        else:
            documents = (self._column(record, self.name) for record in self._records(path))
        return (d for d in documents if (d.strip() if isinstance(d, str) else d))

    def _column(self, record: Mapping[str, Any], where: str) -> str | list[int]:
        if self.column not in record:
            raise UserError(
                f"source.column = {self.column!r}: {where} has no such column; choose from "
                f"{', '.join(map(str, record))}"
            )
        value = record[self.column]
        # A boolean is an int to Python, and a list of them, such as an attention mask, no token ids.
        if not isinstance(value, str) and not (isinstance(value, list) and all(type(i) is int for i in value)):
            raise UserError(
                f"source.column = {self.column!r}: the value in {where} is neither a string nor a list of token ids; "
                "choose another column"
            )
        return value

    def _records(self, path: Path) -> Iterable[Any]:
        from datasets import load_dataset, load_from_disk

        try:
            if (path / "state.json").is_file():
                return load_from_disk(str(path))
            return load_dataset(self.name, self.subset, split=self.split, streaming=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"source.text = {self.name!r}: the data set cannot be loaded: {reason}") from None


def _pieces(file: Path, separator: str | None) -> Iterator[str]:
    """The documents of a .txt file. Those cut from running text keep their line ends, so packed rows equal the file."""
    piece = ""
    with file.open(encoding="utf-8", errors="strict") as lines:
        try:
            for line in lines:
                piece += line
                if not separator and len(piece) >= STRETCH and not line.strip():
                    yield piece
                    piece = ""
                elif separator and piece.find(separator, -len(line) - len(separator)) >= 0:
                    *whole, piece = piece.split(separator)
                    yield from whole
        except UnicodeDecodeError as error:
            raise UserError(
                f"source.text = {str(file)!r}: not UTF-8 text ({error.reason} at byte {error.start}); save it with the "
                "encoding UTF-8"
            ) from None
    yield piece


def json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The records of a .jsonl file with their line numbers, from 1. Raises `UserError` if one is no JSON object."""
    with file.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise UserError(f'{file}, line {n}: not a JSON object; give {{"column": value, ...}} on every line')
            yield n, record  # pyright: ignore[reportUnknownVariableType]


def tokenised(documents: Iterable[str | list[int]], tokenizer: Any, d_vocab: int) -> Iterator[list[int]]:
    """The token ids of each document, without special tokens; a leading BOS of given token ids is dropped.

    Raises `UserError` where an id is none of the `d_vocab` that the model has.
    """
    numbered = enumerate(documents, 1)
    while group := list(islice(numbered, 256)):
        texts = [d for _, d in group if isinstance(d, str)]
        ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
        for n, document in group:
            if isinstance(document, str):
                tokens = next(ids)
                check_tokenizer(tokens, d_vocab)
                yield tokens
            else:
                remedy = "give ids of the model's tokenizer, without padding and without -100"
                check_token_ids(document, d_vocab, f"source.column: document {n}", remedy)
                yield document[1:] if document[:1] == [tokenizer.bos_token_id] else list(document)


def check_tokenizer(ids: Sequence[int], d_vocab: int) -> None:
    """Raises `UserError` where a tokenizer gives ids that its model does not have."""
    check_token_ids(ids, d_vocab, "source.model: its tokenizer", "use the tokenizer that belongs to the model")


def check_token_ids(ids: Sequence[int], d_vocab: int, where: str, remedy: str) -> None:
    """Raises `UserError` where an id is not in 0 to `d_vocab` - 1: a model would fail on it, or padding be read."""
    if ids and not 0 <= min(ids) <= max(ids) < d_vocab:
        wrong = [i for i in ids if not 0 <= i < d_vocab]
        raise UserError(
            f"{where}: {len(wrong)} of {len(ids)} token ids are outside the model's 0 to {d_vocab - 1}, such as "
            f"{wrong[0]}; {remedy}"
        )

"""Text: documents from files and data sets, read one after another and tokenised."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sae.model.hooked import is_path
from sae.registry import MissingFileError, UserError

STRETCH = 4000
"""The length in characters of the documents that running text is cut into."""


@dataclass(frozen=True)
class Text:
    """Where documents come from: a .txt or .jsonl file, a folder of a data set, or a hub id, streamed.

    A .txt file is cut at `separator`; without one it is taken for running text, cut at blank lines into
    stretches of some :data:`STRETCH` characters, so that rows hold text that belongs together. `column` names
    the field of a record: a string, or a list of token ids where the data set is tokenised already.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    column: str = "text"
    separator: str | None = None

    @property
    def local(self) -> bool:
        return is_path(self.name) or Path(self.name).suffix in (".txt", ".jsonl")

    def read(self) -> Iterator[str | list[int]]:
        """The documents in their order, empty ones left out."""
        path = Path(self.name).expanduser()
        if self.local and not path.exists():
            raise MissingFileError(f"source.text: {path} does not exist")
        if path.suffix == ".txt":
            found: Iterable[str | list[int]] = _pieces(path, self.separator)
        elif path.suffix == ".jsonl":
            found = (self._column(record, f"{path}, line {n}") for n, record in json_lines(path))
        else:
            found = (self._column(record, self.name) for record in self._records(path))
        return (d for d in found if (d.strip() if isinstance(d, str) else d))

    def _column(self, record: Mapping[str, Any], where: str) -> str | list[int]:
        if self.column not in record:
            raise UserError(f"source.column: {where} has no {self.column!r}; it has {', '.join(map(str, record))}")
        value = record[self.column]
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(i, int) for i in value)):
            raise UserError(f"source.column: {self.column!r} of {where} is neither a string nor a list of token ids")
        return value

    def _records(self, path: Path) -> Iterable[Any]:
        from datasets import load_dataset, load_from_disk

        try:
            if (path / "state.json").is_file():
                return load_from_disk(str(path))
            return load_dataset(self.name, self.subset, split=self.split, streaming=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"source.text: the data set {self.name!r} cannot be loaded: {reason}") from None


def _pieces(file: Path, separator: str | None) -> Iterator[str]:
    """The documents of a .txt file. Stretches of running text keep their line ends, so that packed rows read like
    the file."""
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
            raise UserError(f"source.text: {file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    yield piece


def json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The records of a .jsonl file with their line numbers, from 1."""
    with file.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise UserError(f"{file}, line {n}: not a JSON object")
            yield n, record  # pyright: ignore[reportUnknownVariableType]


def tokenised(documents: Iterable[str | list[int]], tokenizer: Any) -> Iterator[list[int]]:
    """The token ids of each document, special ones not added; ids pass through without a leading BOS."""
    documents = iter(documents)
    while group := list(islice(documents, 256)):
        texts = [d for d in group if isinstance(d, str)]
        ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
        for document in group:
            tokens = next(ids) if isinstance(document, str) else list(document)
            bos = tokenizer.bos_token_id
            yield tokens[1:] if not isinstance(document, str) and bos is not None and tokens[0] == bos else tokens

"""Documents from files and data sets, read one at a time, and their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sae.activations.text_files import (
    COLUMNAR,
    JSON_LINES,
    PLAIN,
    TABLES,
    TEXT_KINDS,
    csv_lines,
    files_in,
    json_entries,
    json_lines,
    kind_of_file,
    plain_documents,
)
from sae.model.loading import is_path
from sae.registry import MissingFileError, UserError, expand_home

DEFAULT_SPLIT = "train"
"""The split that is read if none is named."""


@dataclass(frozen=True)
class Text:
    """A source of documents: a file, a folder of a data set, or a data set on the hub, streamed.

    Files are those of :data:`~sae.activations.text_files.TEXT_KINDS`. Folders are data sets as the package datasets
    reads or saves them; of a folder of .md files every file is read as a single file is, and so is every .txt file if
    there is a separator. Without one, each line of a folder's .txt files is a document.
    """

    name: str
    """The file, the folder or the hub id."""
    subset: str | None = None
    """The configuration of a data set on the hub."""
    split: str = DEFAULT_SPLIT
    """The split of a data set on the hub or in a folder."""
    column: str = "text"
    """The field of a record that holds the document: a string, or a list of token ids."""
    separator: str | None = None
    """The string between the documents of a text file. Default: it is running text, which is cut at the first blank
    line after :data:`~sae.activations.text_files.STRETCH` characters, so that rows hold connected text."""

    @property
    def local(self) -> bool:
        """Whether the documents are on this machine, not on the hub."""
        return is_path(self.name) or kind_of_file(self.name) is not None

    @property
    def path(self) -> Path:
        """The file or folder of local documents."""
        return Path(expand_home(self.name))

    @property
    def is_running_text(self) -> bool:
        """Whether the documents are cut from a text file, by :attr:`separator` or at blank lines."""
        return self.local and self.path.is_file() and kind_of_file(self.path) in PLAIN

    def read(self) -> Iterator[str | list[int]]:
        """The documents in order, without empty ones.

        Raises `MissingFileError` if there is no such file or folder, `UserError` if it cannot be read or has no
        document.
        """
        if self.local and not self.path.exists():
            raise MissingFileError(f"{self._label}: does not exist; correct the path")
        return self._filled(self._documents())

    @property
    def _label(self) -> str:
        return f"source.text = {self.name!r}"

    def _filled(self, documents: Iterable[str | list[int]]) -> Iterator[str | list[int]]:
        empty = True
        for document in documents:
            if document.strip() if isinstance(document, str) else document:
                yield document
                empty = False
        if empty:
            raise UserError(f"{self._label}: it has no text; give one that has")

    def _documents(self) -> Iterable[str | list[int]]:
        if not self.local or self.path.is_dir():
            plain = self._plain_files() if self.local else []
            if plain:
                return (d for file in plain for d in plain_documents(file, str(file), self.separator))
            return (self._column(record, self.name) for record in self._data_set())
        kind = kind_of_file(self.path)
        if kind is None:
            raise UserError(
                f"{self._label}: not a kind of file that is read; give {', '.join(TEXT_KINDS)} or a .gz of one"
            )
        if self.split != DEFAULT_SPLIT:
            raise UserError(f"source.text_split = {self.split!r}: a file has no splits; leave it out")
        if kind in PLAIN:
            return plain_documents(self.path, self._label, self.separator)
        if kind in JSON_LINES:
            return (self._column(record, f"{self.path}, line {n}") for n, record in json_lines(self.path))
        if kind == ".json":
            return (self._entry(entry, where) for where, entry in json_entries(self.path, self._label))
        if kind in TABLES:
            lines = csv_lines(self.path, TABLES[kind])
            return (self._column(line.cells, f"{self.path}, line {line.number}") for line in lines)
        return (self._column(record, self.name) for record in self._data_set())

    def _entry(self, entry: str | Mapping[str, Any], where: str) -> str | list[int]:
        return entry if isinstance(entry, str) else self._column(entry, where)

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
        return value.removeprefix("\ufeff") if isinstance(value, str) else value

    def _plain_files(self) -> list[Path]:
        """The text files of a folder that is read as such; none for a data set."""
        kinds = {file: kind_of_file(file) for file in files_in(self.path, self._label)}
        if not kinds:
            raise UserError(f"{self._label}: an empty folder; give one with files such as {', '.join(TEXT_KINDS[:4])}")
        plain = [file for file, kind in kinds.items() if kind in PLAIN]
        if {kind for kind in kinds.values() if kind} == {".md"}:
            return plain
        return [file for file in plain if kinds[file] == ".txt"] if self.separator else []

    def _data_set(self) -> Iterator[Any]:
        from datasets import load_dataset
        from datasets.exceptions import DatasetGenerationError

        try:
            kind = COLUMNAR.get(kind_of_file(self.path) or "") if self.local and self.path.is_file() else None
            if kind is not None:
                yield from load_dataset(kind, data_files=str(self.path), split=DEFAULT_SPLIT, streaming=True)
            elif self.local and any((self.path / name).is_file() for name in ("state.json", "dataset_dict.json")):
                yield from self._saved()
            else:
                yield from load_dataset(expand_home(self.name), self.subset, split=self.split, streaming=True)
        except UserError:
            raise
        except (OSError, ValueError, DatasetGenerationError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self._label}: the data set cannot be loaded: {reason}") from None
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            raise UserError(
                f"{self._label}: the data set is a program that loads it, which the package datasets no longer runs; "
                "give its files, or a copy as files such as .parquet"
            ) from None

    def _saved(self) -> Any:
        """The records of a data set that was saved with ``save_to_disk``, with splits or without."""
        from datasets import DatasetDict, load_from_disk

        saved = load_from_disk(str(self.path))
        if isinstance(saved, DatasetDict):
            if self.split not in saved:
                raise UserError(
                    f"source.text_split = {self.split!r}: {self.name} has the splits {', '.join(map(str, saved))}"
                )
            return saved[self.split]
        if self.split not in (DEFAULT_SPLIT, str(saved.split)):
            raise UserError(f"source.text_split = {self.split!r}: {self.name} was saved without splits; leave it out")
        return saved


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

"""Documents from files and data sets, read a chunk at a time and from any position on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sae.activations.data_sets import Saved, Streamed, documents_of, load_errors
from sae.activations.random_text import RANDOM_WORDS, random_text
from sae.activations.text_chunks import CHUNK_SIZE, Chunk, IdLists, Item, Reading, chunks_of, concatenated
from sae.activations.text_files import (
    COLUMNAR,
    JSON_LINES,
    PLAIN,
    TABLES,
    TEXT_KINDS,
    JsonLine,
    csv_lines,
    files_in,
    json_entries,
    kind_of_file,
    plain_documents,
    unparsed_lines,
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
    """The file, the folder, the hub id, or :data:`~sae.activations.random_text.RANDOM_WORDS`."""
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
    def is_endless(self) -> bool:
        """Whether the documents are made up as they are read, see `sae.activations.random_text`."""
        return self.name == RANDOM_WORDS

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
        return self._filled(self.open().chunks(None))

    def open(self) -> Reading:
        """The documents as chunks, with empty ones. Raises as :meth:`read` does, but not for a text without any."""
        if self.is_endless:
            return random_text()
        if not self.local:
            return self._data_set(None)
        if not self.path.exists():
            raise MissingFileError(f"{self._label}: does not exist; correct the path")
        if self.path.is_dir():
            files = files_in(self.path, self._label)
            plain = self._plain_files(files)
            reading = self._files(plain) if plain else self._data_set(None)
        else:
            files = [self.path]
            reading = self._file()
        # Of a file that has been changed, no position is known.
        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return Reading([reading.identity, stamps], reading.chunks)

    def document(self, item: Item) -> str | list[int]:
        """The document that an item of a chunk is or has. Raises `UserError` where there is none."""
        return self._column(item.record(), item.place) if isinstance(item, JsonLine) else item

    def no_text(self) -> UserError:
        """The error for a text without documents."""
        return UserError(f"{self._label}: it has no text; give one that has")

    @property
    def _label(self) -> str:
        return f"source.text = {self.name!r}"

    def _filled(self, chunks: Iterable[Chunk]) -> Iterator[str | list[int]]:
        empty = True
        for chunk in chunks:
            documents = chunk.documents
            if isinstance(documents, IdLists):
                documents = [part.tolist() for part in np.split(documents.ids, documents.lengths.cumsum()[:-1])]
            for document in map(self.document, documents):
                if not is_empty(document):
                    yield document
                    empty = False
            if chunk.error is not None:
                raise chunk.error
        if empty:
            raise self.no_text()

    def _file(self) -> Reading:
        kind, file = kind_of_file(self.path), self.path
        if kind is None:
            raise UserError(
                f"{self._label}: not a kind of file that is read; give {', '.join(TEXT_KINDS)} or a .gz of one"
            )
        if self.split != DEFAULT_SPLIT:
            raise UserError(f"source.text_split = {self.split!r}: a file has no splits; leave it out")
        if kind in COLUMNAR:
            return self._data_set(COLUMNAR[kind])
        if kind in PLAIN:
            return self._files([file])
        if kind in JSON_LINES:
            return _of_readers([lambda: unparsed_lines(file)])
        if kind == ".json":
            return _of_readers([lambda: (self._entry(*each) for each in json_entries(file, self._label))])
        lines = partial(csv_lines, file, TABLES[kind])
        return _of_readers([lambda: (self._column(line.cells, f"{file}, line {line.number}") for line in lines())])

    def _files(self, plain: Sequence[Path]) -> Reading:
        labels = [self._label if self.path == file else str(file) for file in plain]
        return _of_readers(
            [partial(plain_documents, *each, self.separator) for each in zip(plain, labels, strict=True)]
        )

    def _entry(self, where: str, entry: str | Mapping[str, Any]) -> str | list[int]:
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

    def _plain_files(self, files: Sequence[Path]) -> list[Path]:
        """The text files of a folder that is read as such; none for a data set."""
        kinds = {file: kind_of_file(file) for file in files}
        if not kinds:
            raise UserError(f"{self._label}: an empty folder; give one with files such as {', '.join(TEXT_KINDS[:4])}")
        plain = [file for file, kind in kinds.items() if kind in PLAIN]
        if {kind for kind in kinds.values() if kind} == {".md"}:
            return plain
        return [file for file in plain if kinds[file] == ".txt"] if self.separator else []

    def _data_set(self, kind: str | None) -> Reading:
        """The documents of a data set, or of one file of a `kind` that the package datasets reads."""
        with load_errors(self._label):
            if kind is not None:
                records = Streamed(str(self.path), None, DEFAULT_SPLIT, kind)
            elif self.local and any((self.path / name).is_file() for name in ("state.json", "dataset_dict.json")):
                records = Saved(self.path, self.split, DEFAULT_SPLIT)
            else:
                records = Streamed(expand_home(self.name), self.subset, self.split)
        return Reading(list(records.version), partial(self._chunks_of_records, records))

    def _chunks_of_records(self, records: Streamed | Saved, position: Any) -> Iterator[Chunk]:
        """The chunks of a data set. Small tables are put together, because every chunk costs some time."""
        parts, size, after = list[list[Item] | IdLists](), 0, position
        refused: UserError | None = None
        try:
            with load_errors(self._label):
                for table in records.tables(position):
                    documents, refused = self._documents_of(table.records)
                    if parts and type(documents) is not type(parts[0]):
                        yield Chunk(concatenated(parts), after)
                        parts, size = [], 0
                    parts.append(documents)
                    size += len(documents.ids) if isinstance(documents, IdLists) else sum(map(len, documents))
                    after = table.position
                    if refused is not None:
                        break
                    if size >= CHUNK_SIZE:
                        yield Chunk(concatenated(parts), after)
                        parts, size = [], 0
        except UserError as error:
            refused = error
        if parts or refused is not None:
            yield Chunk(concatenated(parts), after, refused)

    def _documents_of(self, records: Any) -> tuple[list[Item] | IdLists, UserError | None]:
        """The documents of some records, and the error at the first record that has none."""
        found = documents_of(records, self.column)
        if found is not None:
            return found, None
        documents = list[Item]()
        try:
            for record in records.to_pylist():
                documents.append(self._column(record, self.name))
        except UserError as error:
            return documents, error
        return documents, None


def _of_readers(readers: Sequence[Callable[[], Iterable[Item]]]) -> Reading:
    return Reading("files", partial(chunks_of, readers))


def is_empty(document: str | list[int]) -> bool:
    """Whether a document has no text or no token ids."""
    return not (document.strip() if isinstance(document, str) else document)


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

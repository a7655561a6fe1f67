"""Documents and records from files, read one at a time: running text, JSON lines, JSON lists and tables.

Every reader accepts a byte-order mark and any line ends, and reads what ``.gz`` compresses.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from sae.numerics.memory import check_memory
from sae.registry import UserError

PLAIN = (".txt", ".md")
JSON_LINES = (".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}
COLUMNAR = {".parquet": "parquet", ".arrow": "arrow"}
"""Files that the package datasets reads, and its names for them."""
TEXT_KINDS = (*PLAIN, *JSON_LINES, ".json", *TABLES, *COLUMNAR)
"""The kinds of files with documents; all but the columnar ones may have ``.gz`` behind them."""
STRETCH = 4000
"""The least length, in characters, of the documents that running text is cut into."""
MOST_FILES = 20_000
"""The largest number of files of a folder that is read or hashed as a whole."""
LONGEST_CELL = 2**31 - 1
"""The longest text in a table; the csv module has a limit of its own that documents exceed."""


def kind_of_file(name: str | Path) -> str | None:
    """The kind of a file with documents, by the end of its name, such as ``.jsonl`` for ``a.JSONL.gz``; None for
    others."""
    *_, before, last = ["", "", *(suffix.lower() for suffix in Path(name).suffixes)]
    kind = before if last == ".gz" else last
    return kind if kind in TEXT_KINDS and not (last == ".gz" and kind in COLUMNAR) else None


def files_in(folder: Path, name: str) -> list[Path]:
    """The files of a folder and its sub-folders, sorted.

    Raises `UserError`, in which the folder is called `name`, where they are more than :data:`MOST_FILES`.
    """
    found: list[Path] = []
    for directory, _, names in os.walk(folder):
        found += [Path(directory, each) for each in names]
        if len(found) > MOST_FILES:
            raise UserError(
                f"{name}: a folder of more than {MOST_FILES:,} files; give a folder that has only its files"
            )
    return sorted(file for file in found if file.is_file())


def local_files(name: str, given: str) -> dict[str, Path]:
    """A local file, called `name`, or the files of a local folder, called ``name/file``."""
    path = Path(given)
    if not path.is_dir():
        return {name: path}
    inside = files_in(path, f"source.{name} = {str(path)!r}")
    return {f"{name}/{file.relative_to(path).as_posix()}": file for file in inside}


@contextmanager
def open_text(file: Path, name: str, newline: str | None = None) -> Generator[IO[str]]:
    """A file as text, without a byte-order mark, decompressed where it ends in ``.gz`` or ``.zst``.

    Raises `UserError`, in which the file is called `name`, where it is not UTF-8 or damaged.
    """
    try:
        with _opened(file, name, newline) as text:
            yield text
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason}); save it with the encoding UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name}: not a whole .gz file ({error}); compress it again") from None


def _opened(file: Path, name: str, newline: str | None) -> io.TextIOWrapper:
    suffix = file.suffix.lower()
    if suffix == ".zst":
        return io.TextIOWrapper(_unpacked(file, name), "utf-8-sig", "strict", newline)
    if suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", errors="strict", newline=newline)
    return file.open(encoding="utf-8-sig", errors="strict", newline=newline)


def _unpacked(file: Path, name: str) -> io.BytesIO:
    """The content of a .zst file, which is read whole: Python itself reads them from 3.14 on."""
    import pyarrow as pa

    try:
        with pa.input_stream(file, compression="zstd") as stream:
            return io.BytesIO(stream.read())
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{name}: not a whole .zst file ({error}); compress it again") from None


def plain_documents(file: Path, name: str, separator: str | None) -> Iterator[str]:
    """The documents of a text file. Those cut from running text keep their line ends, so packed rows equal the file."""
    # Line ends are read as \n, so those of a separator are too.
    separator = separator.replace("\r\n", "\n").replace("\r", "\n") if separator else None
    piece = ""
    with open_text(file, name) as lines:
        for line in lines:
            piece += line
            if not separator and len(piece) >= STRETCH and not line.strip():
                yield piece
                piece = ""
            elif separator and piece.find(separator, -len(line) - len(separator)) >= 0:
                *whole, piece = piece.split(separator)
                yield from whole
    yield piece


class JsonLine(NamedTuple):
    """One line of a .jsonl file that has not been parsed yet."""

    file: Path
    """The file."""
    number: int
    """The line's number, from 1."""
    text: str
    """The line itself."""

    @property
    def place(self) -> str:
        """The line in words."""
        return f"{self.file}, line {self.number}"

    def record(self) -> Mapping[str, Any]:
        """The record on the line. Raises `UserError` if it is no JSON object."""
        try:
            record = json.loads(self.text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UserError(f'{self.place}: not a JSON object; give {{"column": value, ...}} on every line')
        return record  # pyright: ignore[reportUnknownVariableType]


def unparsed_lines(file: Path) -> Iterator[JsonLine]:
    """The lines of a .jsonl file that are not blank."""
    with open_text(file, str(file)) as lines:
        yield from (JsonLine(file, n, line) for n, line in enumerate(lines, 1) if line.strip())


def json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The records of a .jsonl file with their line numbers, from 1. Raises `UserError` if one is no JSON object."""
    yield from ((line.number, line.record()) for line in unparsed_lines(file))


def json_entries(file: Path, name: str) -> Iterator[tuple[str, str | Mapping[str, Any]]]:
    """The entries of a .json file, a list of strings or of records, each with its place in words.

    A file of JSON lines is read as such, one line at a time. Raises `UserError` where it is neither.
    """
    with open_text(file, name) as text:
        blocks = iter(lambda: text.read(4096).lstrip(), "")
        start = next(blocks, "")[:1]
    if start == "{":
        yield from ((f"{file}, line {n}", record) for n, record in json_lines(file))
        return
    # A list cannot be read piece by piece.
    check_memory(name, file.stat().st_size)
    content: Any = None
    with open_text(file, name) as text, suppress(json.JSONDecodeError, RecursionError):
        content = json.load(text) if start else []
    if not isinstance(content, list):
        raise UserError(f"{name}: not a JSON list; give a list of strings or of objects, or a .jsonl file")
    for n, entry in enumerate(content, 1):
        if not isinstance(entry, str | dict):
            raise UserError(f"{name}: entry {n} is neither a string nor an object; give a list of one of these")
        yield f"{file}, entry {n}", entry


class CsvLine(NamedTuple):
    """One record of a .csv file."""

    number: int
    """The line of the file on which it ends, from 1."""
    cells: Mapping[str, str]
    """The cells by column."""


def csv_header(file: Path, delimiter: str = ",") -> Sequence[str]:
    """The names of the columns of a table; empty for an empty file."""
    with _rows(file, delimiter) as rows:
        return next(rows, (1, []))[1]


def csv_lines(file: Path, delimiter: str = ",") -> Iterator[CsvLine]:
    """The records of a table below its header. Raises `UserError`, with the line, if it is not valid."""
    with _rows(file, delimiter) as rows:
        _, header = next(rows, (1, list[str]()))
        for number, cells in rows:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file}, line {number}: {len(cells)} cells, but the header has {len(header)}; put quotes "
                    "around texts that contain commas"
                )
            yield CsvLine(number, dict(zip(header, cells, strict=True)))


@contextmanager
def _rows(file: Path, delimiter: str) -> Generator[Iterator[tuple[int, list[str]]]]:
    """The rows of a table with the number of the line on which each ends."""
    number = 0
    csv.field_size_limit(LONGEST_CELL)

    def numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
        nonlocal number
        for cells in reader:
            number = reader.line_num
            yield number, cells

    try:
        with open_text(file, str(file), newline="") as text:
            yield numbered(csv.reader(text, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{file}, line {number + 1}: not valid CSV: {error}") from None

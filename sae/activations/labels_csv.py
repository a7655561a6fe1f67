"""Labelled texts from a .csv file: a column of texts and a column for each label, or prompts and their targets.

The texts are in `text` or `prompt`. Where there is a column `target` (the form of sae-probes' data sets, whose other
columns are not labels), its values are classes: two of them make one label, named like the file and 1 for the one that
sorts last; more make a label each, ``<file>_<class>``. Otherwise every column beside the text holds 0 or 1 and is a
label of its own. Texts with the same `group` stay together when rows are parted; without that column each is alone.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sae.registry import UserError

TEXT = ("text", "prompt")
GROUP = "group"
TARGET = "target"


class LabelledText(NamedTuple):
    """A text, the group that it must stay with, and what it is labelled with."""

    text: str
    group: str
    marks: Mapping[str, int]


class CsvLine(NamedTuple):
    """The cells of one record by column, and the line of the file that it ends on."""

    number: int
    cells: Mapping[str, str]


def read_labels_csv(file: Path) -> list[LabelledText]:
    """The records of the file. Raises ``ValueError`` with one line naming the file, and the line where there is one."""
    header, lines = _lines(file)
    column = next((name for name in TEXT if name in header), None)
    labels = [name for name in header if name not in (*TEXT, GROUP)]
    if column is None or not labels:
        need = f"a column {' or '.join(map(repr, TEXT))}, and {TARGET!r} or columns of 0 and 1 beside it"
        raise UserError(f"{file}, line 1: {need} are needed; it has {', '.join(map(repr, header)) or 'none'}")
    for line in lines:
        if not line.cells[column].strip():
            raise UserError(f"{file}, line {line.number}: {column!r} is empty; give a text or leave the line out")
    marks = _targets(file, lines) if TARGET in header else [_marks(file, line, labels) for line in lines]
    return [
        LabelledText(line.cells[column], line.cells.get(GROUP, line.cells[column]), its)
        for line, its in zip(lines, marks, strict=True)
    ]


def _lines(file: Path) -> tuple[Sequence[str], list[CsvLine]]:
    number, header, lines = 1, list[str](), list[CsvLine]()
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            header = next(reader, [])
            for cells in reader:
                number = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UserError(f"{file}, line {number}: {len(cells)} cells where the header has {len(header)}")
                lines.append(CsvLine(number, dict(zip(header, cells, strict=True))))
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise UserError(f"{file}, line {number + 1}: {error}") from None
    if not lines:
        raise UserError(f"{file}: no texts in it; give a header and a line for each text")
    return header, lines


def _marks(file: Path, line: CsvLine, labels: Sequence[str]) -> dict[str, int]:
    for name in labels:
        if line.cells[name] not in ("0", "1"):
            raise UserError(f"{file}, line {line.number}: {name} = {line.cells[name]!r}; a label is 0 or 1")
    return {name: int(line.cells[name]) for name in labels}


def _targets(file: Path, lines: Sequence[CsvLine]) -> list[dict[str, int]]:
    classes = sorted({line.cells[TARGET] for line in lines})
    if len(classes) < 2:
        raise UserError(f"{file}: every {TARGET} is {classes[0]!r}; a property has to be absent somewhere")
    named = {file.stem: classes[1]} if len(classes) == 2 else {f"{file.stem}_{c}": c for c in classes}
    return [{name: int(line.cells[TARGET] == c) for name, c in named.items()} for line in lines]

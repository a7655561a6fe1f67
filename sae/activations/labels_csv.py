"""Labelled texts from a .csv file: a column of texts with a column per label, or prompts with their targets.

The texts are in the column `text` or `prompt`. If there is a column `target`, as in the data sets of sae-probes, its
values are classes and other columns are ignored: two classes make one label, named like the file and 1 for the class
that sorts last; more classes make one label each, ``<file>_<class>``. Otherwise every other column is a label, 0 or 1.
Texts with the same value in the optional column `group` are always in the same split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sae.activations.text_files import CsvLine, csv_header, csv_lines
from sae.registry import UserError

TEXT = ("text", "prompt")
GROUP = "group"
TARGET = "target"
_UNKNOWN = ("", "nan", "<na>")
"""How data frames write an unknown value."""


class CsvText(NamedTuple):
    """A text with labels of the whole text."""

    text: str
    group: str
    """Texts of one group are always in the same split."""
    labels: Mapping[str, int]
    """The labels, name -> 0 or 1."""


def read_labels_csv(file: Path) -> list[CsvText]:
    """The labelled texts of a .csv file. Raises `UserError`, with the line, if it has another form."""
    header, lines = csv_header(file), list(csv_lines(file))
    if not lines:
        raise UserError(f"{file}: it has no texts; give a header and a line for each text")
    column = next((name for name in TEXT if name in header), None)
    labels = [name for name in header if name not in (*TEXT, GROUP)]
    if column is None or not labels:
        need = f"a column {' or '.join(map(repr, TEXT))}, and {TARGET!r} or columns of 0 and 1"
        raise UserError(f"{file}, line 1: give {need}; it has {', '.join(map(repr, header)) or 'none'}")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise UserError(
            f"{file}, line 1: {len(header)} columns, of which several are called {repeated[0]!r}; rename them"
        )
    for line in lines:
        if not line.cells[column].strip():
            raise UserError(f"{file}, line {line.number}: {column!r} is empty; give a text or leave the line out")
    by_line = _from_targets(file, lines) if TARGET in header else [_from_columns(file, line, labels) for line in lines]
    return [
        CsvText(line.cells[column], line.cells.get(GROUP, line.cells[column]), line_labels)
        for line, line_labels in zip(lines, by_line, strict=True)
    ]


def _from_columns(file: Path, line: CsvLine, labels: Sequence[str]) -> dict[str, int]:
    for name in labels:
        if line.cells[name] not in ("0", "1"):
            raise UserError(f"{file}, line {line.number}: {name} = {line.cells[name]!r}; a label must be 0 or 1")
    return {name: int(line.cells[name]) for name in labels}


def _from_targets(file: Path, lines: Sequence[CsvLine]) -> list[dict[str, int]]:
    # An unknown target would be a class of its own.
    unknown = [line for line in lines if line.cells[TARGET].strip().lower() in _UNKNOWN]
    if unknown:
        first = f"line {unknown[0].number}: {TARGET} = {unknown[0].cells[TARGET]!r}"
        raise UserError(f"{file}, {first}: {len(unknown)} of {len(lines)} lines have no target; leave them out")
    classes = sorted({line.cells[TARGET] for line in lines})
    if len(classes) < 2:
        raise UserError(f"{file}: every {TARGET} is {classes[0]!r}; give prompts of at least two targets")
    stem = file.name.removesuffix(".zst").removesuffix(".csv")
    named = {stem: classes[1]} if len(classes) == 2 else {f"{stem}_{c}": c for c in classes}
    return [{name: int(line.cells[TARGET] == c) for name, c in named.items()} for line in lines]

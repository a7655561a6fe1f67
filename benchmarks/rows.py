"""The table of systems and open problems: of every row what makes it, what was expected and what was measured.

python -m benchmarks.rows --list     prints it, and exits with 1 where a row has no measured value
python -m benchmarks.rows            writes it into docs/rows.md

Nothing measured is written here. Values are taken from the results in benchmarks/results, by study and by words of the
claim, and, for what one `sae run` or `sae ask` prints, from the tables of docs/toys.md and docs/questions.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lines import Line, note, read, run
from benchmarks.table import HERE, markdown, placed
from sae.registry import UserError

DOCS = HERE.parent / "docs"


@dataclass(frozen=True)
class Found:
    """A measured value with what was expected."""

    what: str
    """What is measured."""
    expected: str
    """The value in the literature or in closed form; empty if there is none."""
    measured: str
    """The value measured here; empty if there is none."""


@dataclass(frozen=True)
class Result:
    """The results of a study whose claims contain some words."""

    study: str
    words: str

    def find(self, lines: Sequence[Line]) -> list[Found]:
        """The newest result of each claim, in order."""
        newest = {
            line["claim"]: Found(line["claim"], line["expected"], line["measured"])
            for line in lines
            if line.get("study") == self.study and self.words in line["claim"]
        }
        return [*newest.values()]


@dataclass(frozen=True)
class Cell:
    """A cell of a table in the docs, by how its row begins; and the cells before it that say what was expected."""

    page: str
    row: str
    column: int = -1
    expected: int | None = None

    def find(self, lines: Sequence[Line]) -> list[Found]:
        """The cell. Raises `UserError` where not exactly one row begins so."""
        text = (DOCS / f"{self.page}.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith(f"| {self.row}")]
        if len(rows) != 1:
            raise UserError(f"docs/{self.page}.md: {len(rows)} rows of tables begin with {self.row!r}; one should")
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", rows[0].strip()[1:-1])]
        expected = "" if self.expected is None else cells[self.expected]
        return [Found(cells[0], expected, cells[self.column])]


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    number: int
    about: str
    """The system or problem."""
    command: str
    """The command that makes it."""
    values: tuple[Result | Cell, ...]
    """Where the measured values are."""
    expected: str = ""
    """What was expected, where the results do not say so."""


def known_rows(file: Path = HERE / "rows.toml") -> list[Row]:
    """The rows of the table."""

    def value(table: dict[str, Any]) -> Result | Cell:
        if "result" in table:
            return Result(table["result"], table["words"])
        # Tables of docs/toys.md: claim, how to check it, expected, measured.
        return Cell(table["page"], table["row"], table.get("column", -1), 2 if table["page"] == "toys" else None)

    tables = tomllib.loads(file.read_text(encoding="utf-8"))["row"]
    return [Row(**{**table, "values": tuple(map(value, table["values"]))}) for table in tables]


def found(row: Row, lines: Sequence[Line]) -> list[Found]:
    """All values of a row; empty ones for those that no result has."""
    return [value for source in row.values for value in source.find(lines) or [Found("", "", "")]]


def missing(rows: Sequence[Row], lines: Sequence[Line]) -> list[int]:
    """The numbers of rows without a measured value."""
    return [row.number for row in rows if not all(value.measured for value in found(row, lines))]


def as_table(lines: Sequence[Line], rows: Sequence[Row]) -> str:
    """The table in Markdown, a line for each value."""
    shown: list[Line] = []
    for row in rows:
        for i, value in enumerate(found(row, lines)):
            of_row = {"number": str(row.number), "about": row.about, "command": f"`{row.command}`"} if i == 0 else {}
            expected = value.expected or (row.expected if i == 0 else "")
            shown.append({**of_row, "what": value.what, "expected": expected, "measured": value.measured})
    heads = {"number": "", "about": "system or problem", "command": "command", "what": "quantity"}
    names = (*heads, "expected", "measured")
    columns = [(heads.get(n, n), lambda line, n=n: line.get(n, "").replace("|", r"\|")) for n in names]
    return markdown(columns, shown)


def rows(*, list_: bool = False, page: Path = DOCS / "rows.md") -> None:
    """Write the table into its page, or print it.

    Parameters
    ----------
    list_
        Print it, and exit with 1 where a row has no measured value.
    page
        The Markdown file with the markers.
    """
    lines, every = read(sorted((HERE / "results").glob("*.jsonl"))), known_rows()
    table = as_table(lines, every)
    if not list_:
        page.write_text(placed(page.read_text(encoding="utf-8"), "rows", table), encoding="utf-8")
        note(f"{page}: written")
        return
    print(table)
    if empty := missing(every, lines):
        raise SystemExit(f"rows without a measured value: {', '.join(map(str, empty))}")


if __name__ == "__main__":
    run(rows)

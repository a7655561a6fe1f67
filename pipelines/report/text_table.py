"""Tables on a terminal. No cell is ever cut: text is folded between words, and columns that do not fit are left out by
name or continued below."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

GAP = "  "
"""What stands between two columns."""
COMFORTABLE = 22
"""Width down to which text is folded before a column is left out."""
_BREAK = re.compile(r"(?<=\s)(?=\S)|(?<=[_/,=.])(?=[^\W\d_])")
"""Where text may be folded: after a space, and within a word before a letter, so that no number is divided."""


@dataclass(frozen=True)
class TextColumn:
    """A column of a table on a terminal."""

    head: str
    """Its head, which may be folded."""
    cells: Sequence[str]
    """Its cells in the markup of rich."""
    is_text: bool = False
    """Whether its cells are text, which may be folded between words; a number never is."""
    is_kept: bool = False
    """Whether it is shown however narrow the terminal is."""
    is_right: bool = False
    """Whether its cells are aligned on their right side."""


def print_text_table(console: Console, title: str, columns: Sequence[TextColumn], elsewhere: str = "") -> None:
    """Prints a table that fits the width of the console.

    Columns that do not fit are left out, and a line names them and `elsewhere`, the file that has them. Without such a
    file they follow below in tables of their own, next to the first columns, which tell the rows apart.
    """
    measured = [_Measured.of(console, column) for column in columns]
    blocks, dropped = _fitting(measured, console.width) if elsewhere else (_continued(measured, console.width), [])
    for i, block in enumerate(blocks):
        heading = f"{title}, continued" if i else title
        if title:
            console.print(Text(heading, style="italic"), soft_wrap=True)
        for line in _lines(block, console.width):
            console.print(line, soft_wrap=True)
    if dropped:
        names = ", ".join(column.head.plain for column in dropped)
        print_sentence(console, f"not shown for lack of width: {names}; {elsewhere} has them", style="dim")


def print_sentence(console: Console, text: str, style: str | None = None) -> None:
    """Prints a sentence, folded between words on a terminal and on one line elsewhere."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


@dataclass(frozen=True)
class _Measured:
    """A column with its widths."""

    column: TextColumn
    """The column."""
    head: Text
    """Its head."""
    cells: Sequence[Text]
    """Its cells."""

    @classmethod
    def of(cls, console: Console, column: TextColumn) -> _Measured:
        # The console cleans a string before its width is measured.
        head = console.render_str(column.head, markup=False, highlight=False, style="bold")
        return cls(column, head, [console.render_str(cell, markup=True, highlight=False) for cell in column.cells])

    @cached_property
    def most(self) -> int:
        """The width without any fold."""
        return max(cell_len(text.plain) for text in (self.head, *self.cells))

    @cached_property
    def least(self) -> int:
        """The width with every fold that is allowed."""
        folded = [piece for text in (self.head, *self._texts) for piece in _BREAK.split(text.plain)]
        whole = [] if self.column.is_text else [text.plain for text in self.cells]
        return max(cell_len(text.rstrip()) for text in (*folded, *whole))

    @cached_property
    def comfortable(self) -> int:
        """The width that a column needs in order not to be left out."""
        return max(self.least, min(self.most, COMFORTABLE)) if self.column.is_text else self.least

    @property
    def _texts(self) -> Sequence[Text]:
        return self.cells if self.column.is_text else ()


def _fitting(columns: Sequence[_Measured], width: int) -> tuple[list[list[_Measured]], list[_Measured]]:
    """The columns that fit, those that are kept among them, and the rest."""
    shown, dropped = [c for c in columns if c.column.is_kept], list[_Measured]()
    for column in (c for c in columns if not c.column.is_kept):
        fits = not dropped and _width([*shown, column]) <= width
        (shown if fits else dropped).append(column)
    return [[c for c in columns if c in shown]], dropped


def _continued(columns: Sequence[_Measured], width: int) -> list[list[_Measured]]:
    """The columns in blocks that fit, each behind the first columns, which tell the rows apart."""
    keys = list(columns[: _n_keys(columns)])
    blocks = [list(keys)]
    for column in columns[len(keys) :]:
        if len(blocks[-1]) > len(keys) and _width([*blocks[-1], column]) > width:
            blocks.append(list(keys))
        blocks[-1].append(column)
    return blocks


def _n_keys(columns: Sequence[_Measured]) -> int:
    """The smallest number of first columns that tell all rows apart; one where none do."""
    n_rows = max((len(c.cells) for c in columns), default=0)
    for n in range(1, len(columns)):
        if len({tuple(c.cells[row].plain for c in columns[:n]) for row in range(n_rows)}) == n_rows:
            return n
    return 1


def _width(columns: Sequence[_Measured]) -> int:
    return sum(c.comfortable for c in columns) + len(GAP) * (len(columns) - 1)


def _widths(columns: Sequence[_Measured], width: int) -> list[int]:
    """The width of each column: the least, and what room is left first for text and then for heads."""
    widths = [c.least for c in columns]
    room = width - sum(widths) - len(GAP) * (len(columns) - 1)
    for i in sorted(range(len(columns)), key=lambda i: not columns[i].column.is_text):
        more = max(0, min(room, columns[i].most - widths[i]))
        widths[i] += more
        room -= more
    return widths


def _lines(columns: Sequence[_Measured], width: int) -> list[Text]:
    """The lines of a table, without spaces at their ends."""
    widths, lines = _widths(columns, width), list[Text]()
    for row in zip(*([c.head, *c.cells] for c in columns), strict=True):
        folded = [_fold(text, w) for text, w in zip(row, widths, strict=True)]
        for i in range(max(map(len, folded))):
            parts = [texts[i] if i < len(texts) else Text() for texts in folded]
            aligned = [_align(part, w, c.column.is_right) for part, w, c in zip(parts, widths, columns, strict=True)]
            line = Text(GAP).join(aligned)
            line.rstrip()
            lines.append(line)
    return lines


def _align(text: Text, width: int, is_right: bool) -> Text:
    room = " " * (width - cell_len(text.plain))
    return Text.assemble(room, text) if is_right else Text.assemble(text, room)


def _fold(text: Text, width: int) -> list[Text]:
    """A cell in lines of at most `width`, where its words allow it."""
    starts = [0, *(match.start() for match in _BREAK.finditer(text.plain)), len(text.plain)]
    cuts, begin = list[int](), 0
    for start, end in pairwise(starts):
        if start > begin and cell_len(text.plain[begin:end].rstrip()) > width:
            cuts.append(start)
            begin = start
    lines = list(text.divide(cuts))
    for line in lines:
        line.rstrip()
    return lines

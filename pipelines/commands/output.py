"""The terminal: every line that a command prints goes through `Terminal`.

Names and texts from files (the cards of foreign dictionaries, manifests, tables, tensor names) may hold control
characters, which a terminal would obey: it would move the cursor, set the window's title, or hide a line.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands for a character that is not printed."""
PIPED_WIDTH = 200
"""Columns for which a table is laid out where nobody sees it on a terminal and COLUMNS does not say how many."""
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that a terminal obeys or that reorder or hide text, and of broken file names."""
_SIMPLER = str.maketrans(
    {"±": "+-", "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "∞": "inf", "≤": "<=", "≥": ">=", "…": ".", "━": "-"}
)
"""Stand-ins for the signs of our own sentences where the terminal's encoding lacks them."""


def printable(text: str, encoding: str = "utf-8") -> str:
    """The text with control characters replaced, except line ends and tabs, and everything that `encoding` lacks."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(REPLACEMENT if c not in "\n\t" and unicodedata.category(c) in _OBEYED else c for c in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SIMPLER).encode(encoding, "replace").decode(encoding)
    return text


class Terminal(Console):
    """A console that prints no control characters but its own, and that outlives its reader.

    Where nobody reads any more (``sae run demo | head -1``) it falls silent: the work is done all the same.
    """

    def __init__(self, piped_width: int = PIPED_WIDTH, **options: Any) -> None:
        super().__init__(emoji=False, **options)  # a path may contain ``:x:``
        is_told = "width" in options or os.environ.get("COLUMNS", "").isdecimal()
        if not self.is_terminal and not is_told:  # rich would take the width of a terminal that shows something else
            self.width = piped_width

    def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Text for a string, cleaned before its width is measured."""
        return super().render_str(printable(text, self.encoding), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of anything, cleaned; those that control the terminal are rich's own."""
        for segment in super().render(renderable, options):
            clean = segment.text if segment.control else printable(segment.text, self.encoding)
            yield segment if clean == segment.text else Segment(clean, segment.style)

    def on_broken_pipe(self) -> None:
        """Prints no more, also not when the interpreter ends."""
        self.quiet = True
        with suppress(OSError, ValueError):  # a stream without a descriptor has nothing to redirect
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def say(self, text: str) -> None:
        """Prints a text as it is, however long."""
        self.print(text, markup=False, highlight=False, soft_wrap=True)

    def copy_file(self, file: Path) -> None:
        """Prints the content of a file: byte for byte to a pipe or another file, cleaned on a terminal."""
        if self.is_terminal or not isinstance(self.file, TextIOWrapper):
            self.print(file.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True, end="")
            return
        try:
            self.file.buffer.write(file.read_bytes())
            self.file.flush()
        except BrokenPipeError:
            self.on_broken_pipe()


def open_streams() -> None:
    """Makes stdout and stderr safe to write to: a closed one is replaced by one that nobody reads, and a character that
    its encoding lacks is written as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: the next file opened would take its descriptor
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

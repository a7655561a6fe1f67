"""Docstrings and tables as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
EQUATION = re.compile(r"[\w.]+ += .*")
ROLE = re.compile(r":(?:py:)?[a-z]+:`([^`]+)`")


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: indented blocks become code, everything else stays prose."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        is_code = all(line.startswith("    ") or EQUATION.match(line) for line in block.splitlines())
        if is_code and parts and parts[-1].endswith("\n```"):  # an empty line within one block of code
            parts[-1] = f"{parts[-1][:-4]}\n\n{_dedent(block)}\n```"
        elif is_code:
            parts.append(f"```text\n{_dedent(block)}\n```")
        else:
            parts.append(prose(block))
    return "\n\n".join(parts)


def prose(text: str) -> str:
    """A paragraph: names in code, nothing else of it read as Markdown, but for emphasis of whole words."""
    pieces = CODE.split(ROLE.sub(lambda role: f"`{role[1].lstrip('~')}`", text))
    return "".join(_code(piece) if i % 2 else _escaped(piece) for i, piece in enumerate(pieces))


def one_line(text: str | None) -> str:
    """A docstring as the content of a table's cell."""
    return prose(" ".join((text or "").split())).replace("|", "\\|")


def code_cell(text: str) -> str:
    """Code as the content of a table's cell."""
    return _code(f"`{' '.join(text.split())}`").replace("|", "\\|") if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _dedent(block: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in block.splitlines())


def _code(span: str) -> str:
    inner = span.strip("`")
    return f"`` {inner} ``" if "`" in inner else f"`{inner}`"


def _escaped(text: str) -> str:
    text = re.sub(r"([\\*_\[\]<>#$~])", r"\\\1", text)
    return re.sub(r"\\\*(\w[\w ]*)\\\*", r"*\1*", text)

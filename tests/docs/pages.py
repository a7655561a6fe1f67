"""The code blocks of a page of the docs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SAE_TEST_DATA") or ROOT.parent / "shared" / "data")
MODEL, TEXT = DATA / "models/stories260k", DATA / "text/tinystories_valid.txt"


class Snippet(NamedTuple):
    """A block of code of a page."""

    language: str
    code: str
    line: int
    """The number of its first line."""


def snippets(page: Path, languages: str = "python|sh|toml") -> list[Snippet]:
    """The blocks of a page in these languages, in their order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```({languages})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Snippet(m[1], m[2], text[: m.start()].count("\n") + 2) for m in found]


def with_data(code: str) -> str:
    """The code with the model and the text of the test data."""
    code = code.replace("=MODEL ", f"={MODEL} ").replace('"MODEL"', f'"{MODEL}"')
    return code.replace("=TEXT.txt", f"={TEXT}")

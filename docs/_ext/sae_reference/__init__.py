"""Sphinx extension: the reference is written from the code, so that it cannot fall behind it.

A page says where, ``<!-- generated: NAME -->``; the functions of this package say what, as Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from sae_reference.analysis import analyses
from sae_reference.api import public_names
from sae_reference.commands import commands
from sae_reference.config_file import config_file
from sae_reference.kinds import kinds_page, questions
from sae_reference.scores import scores

INTERFACES = ("sources", "dictionaries", "encoders", "baselines", "metrics")
GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "config": config_file,
    "questions": questions,
    "scores": scores,
    "python": public_names,
    "analysis": analyses,
    **{interface: partial(kinds_page, interface) for interface in INTERFACES},
}
"""What a page can ask for."""
MARKER = re.compile(r"<!-- generated: (\w+) -->")


def generate(text: str) -> str:
    """The text of a page with its markers replaced. Raises `KeyError` for a name that is not in `GENERATED`."""
    return MARKER.sub(lambda marker: GENERATED[marker[1]](), text)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""

    def read(app: Any, page: str, source: list[str]) -> None:
        source[0] = generate(source[0])

    def outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
        return [page for page in env.found_docs if page.startswith("reference/")]  # the code may have changed

    app.connect("source-read", read)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

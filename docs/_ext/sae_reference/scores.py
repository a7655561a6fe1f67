"""Every known score."""

from __future__ import annotations

from pipelines.report.scores import SCORES
from sae_reference.text import code_cell, one_line, table

BETTER = {"more": "more is better", "less": "less is better", "": ""}


def scores() -> str:
    """One row per score, in the order of the columns of tables."""
    rows = [
        (code_cell(f"{name}N" if name.endswith("_") else name), BETTER[info.better], one_line(info.meaning))
        for name, info in SCORES.items()
    ]
    return table(("score", "", "meaning"), rows)

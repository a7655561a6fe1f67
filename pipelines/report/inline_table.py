"""The tables of a report or a comparison as HTML for notebooks: no script, no style sheet, the notebook's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.report.page import ScoreCell, penalty_names
from pipelines.report.settings_table import Setting
from pipelines.report.terminal import footnote, method_text, shown_lines, shown_names

_LEFT, _FAINT = ' style="text-align: left"', ' style="opacity: 0.6"'


def scores_html(settings: Sequence[Setting], score: str, title: str, findings: Sequence[str]) -> str:
    """The table that a terminal shows of one source, with the findings below it."""
    lines, names, penalties = shown_lines(settings, score), shown_names(settings, score), penalty_names(settings)
    rows: list[list[str]] = []
    for line in lines:
        values = [dict(line.setting.penalty).get(name) for name in penalties]
        known = [str(line.setting.n_latents or ""), *("" if v is None else f"{v:.4g}" for v in values)]
        rows.append([escape(method_text(line.setting, score)), *known, *(_cell(cell) for cell in line.cells)])
    sentences = [footnote(settings, score, len(lines)), *findings]
    return _table(title, ["method", "latents", *penalties, *names], rows, sentences)


def comparison_html(summary: Mapping[str, Any]) -> str:
    """The tables of a suite, from the content of its ``summary.json``."""
    parts: list[str] = []
    for one in summary["sources"]:
        rows = [
            [
                escape(line["method"]) + (" *" if line["ceiling"] else ""),
                escape(line["where"]),
                *(f"{escape(text)} <span{_FAINT}>{escape(interval)}</span>" for text, interval in line["cells"]),
                "" if line["p"] is None else f"{line['p']:.2g}",
            ]
            for line in one["lines"]
        ]
        parts.append(_table(one["source"], ["method", "penalty", *one["names"], "p"], rows, one["findings"]))
    return "".join(parts) + (f"<p>{escape(summary['several'])}</p>" if summary["several"] else "")


def _cell(cell: ScoreCell) -> str:
    mean = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    return f'<span title="{escape(cell.hint)}">{mean} <span{_FAINT}>{escape(cell.half)}</span></span>'


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], sentences: Sequence[str]) -> str:
    """A table whose cells are HTML, with sentences of plain text below it."""
    head = "".join(f"<th{_LEFT if i == 0 else ''}>{escape(name)}</th>" for i, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{_LEFT if i == 0 else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    below = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    caption = f"<caption{_LEFT}>{escape(title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"

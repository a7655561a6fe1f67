"""The command `sae ask`. Nothing heavy is imported before it is called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from pipelines.commands.options import ConfigName, Out, Set, Tier, read_settings
from pipelines.commands.output import Terminal
from pipelines.report.text_table import TextColumn, print_text_table

if TYPE_CHECKING:
    from pipelines.question import Answer, AnswerTable, AnswerValue


def ask(
    question: str,
    config: ConfigName,
    dictionary: str | None = None,
    *,
    set: Set = None,
    out: Out = None,
    tier: Tier = "full",
) -> None:
    """Answer one of the open questions on a config's model and, where the question uses one, on a trained dictionary.

    monosemantic, smuggling, readers, all_units, positional, decoder, heads, neuron_map, embeddings, superposition or
    genres; docs/questions.md describes them. Every answer has its control next to it, is printed as tables and written
    as JSON.

    Parameters
    ----------
    question
        The question; its settings are under [ask.QUESTION] in the config.
    dictionary
        A saved dictionary of that source, or a train step's directory; without it the question is about neurons alone.
    """
    from pipelines.question import answer_question
    from pipelines.steps.progress import Board

    settings, root = read_settings(config, set, tier, out)
    answer, file = answer_question(question, settings, dictionary, root, Board(Terminal(stderr=True)))
    print_answer(answer, file, Terminal())


def print_answer(answer: Answer, file: Path, console: Console) -> None:
    """Prints the facts, the tables and the path of the file."""
    for name, value in answer.facts.items():
        console.print(f"{name}: {_cell_text(value)}", markup=False, highlight=False, soft_wrap=True)
    for table in answer.tables:
        print_answer_table(table, console)
    console.print(f"answer: {file}", markup=False, highlight=False, soft_wrap=True)


def print_answer_table(table: AnswerTable, console: Console) -> None:
    """Prints one table."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    drawn = [_column(head, cells) for head, cells in zip(table.columns, columns, strict=True)]
    print_text_table(console, table.title, drawn)


def _column(head: str, cells: Sequence[AnswerValue]) -> TextColumn:
    is_text = any(isinstance(cell, str) for cell in cells)
    return TextColumn(head, [escape(_cell_text(cell)) for cell in cells], is_text=is_text, is_right=not is_text)


def _cell_text(cell: AnswerValue) -> str:
    if cell is None:
        return ""
    from sae.numerics.statistics import Interval

    if isinstance(cell, Interval):
        if math.isnan(cell.value):
            return "not known"
        return f"{cell.value:.3g}" if cell.low == cell.high or math.isnan(cell.low) else str(cell)
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)

"""`sae ask`: a question of :mod:`pipelines.questions` put to a config's source and a dictionary, its answer printed as
tables and written as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipelines import runner
from pipelines.config import Config
from pipelines.progress import Board
from pipelines.question import Answer, Asked, Cell, QuestionConfig
from pipelines.store import Store
from pipelines.tables import build
from sae.files import load
from sae.files.native import write_whole
from sae.kinds import configurable, unknown
from sae.statistics import Interval

QUESTIONS = "pipelines.questions"


def ask(
    question: str, settings: Config, dictionary: str | Path | None, root: Path, board: Board
) -> tuple[Answer, Path]:
    """The answer, and the file that it was written to.

    Raises ``ValueError`` or ``FileNotFoundError`` of one line: an unknown question or setting, a dictionary that does
    not fit, a source that cannot be asked this.
    """
    asked_with = config_of(question, settings.ask)
    d = None if dictionary is None else load(dictionary)
    store = Store(root)
    store.create()
    asked = Asked(settings, d, store, runner.execution(settings.runtime), board)
    folder = root / f"{settings.name}-answers"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: in the way of the answers; move it, or give the config another name")
    answer = asked_with.answer(asked)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{question}.json"
    given = {
        "question": question,
        "settings": asked_with.model_dump(mode="json"),
        "source": asked.source_config.model_dump(mode="json"),
        "dictionary": None if dictionary is None else str(dictionary),
    }
    write_whole(file, (json.dumps({**given, **_plain(answer)}, indent=1, allow_nan=False) + "\n").encode())
    return answer, file


def config_of(question: str, tables: Mapping[str, Mapping[str, Any]]) -> QuestionConfig:
    """The settings of a question, from the config's ``[ask.<question>]``."""
    known = configurable(QUESTIONS)
    for name in (question, *tables):
        if name not in known:
            raise ValueError(unknown(name, known, "question"))
    cls = known[question].Config
    assert issubclass(cls, QuestionConfig)
    return build(cls, tables.get(question, {}), f"ask.{question}")


def tell(answer: Answer, file: Path, console: Console) -> None:
    """Prints the tables, the facts, and where all of it lies."""
    for name, value in answer.facts.items():
        console.print(f"{name}: {_told(value)}", markup=False, highlight=False, soft_wrap=True)
    for table in answer.tables:
        drawn = RichTable(
            title=escape(table.title), title_justify="left", title_style="italic", box=None, pad_edge=False
        )
        for i, column in enumerate(table.columns):
            drawn.add_column(column, justify="right" if i else "left", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(escape(_told(cell)) for cell in row))
        console.print(drawn)
    console.print(f"answer: {file}", markup=False, highlight=False, soft_wrap=True)


def _told(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Interval):
        if math.isnan(cell.value):
            return "not known"
        return f"{cell.value:.3g}" if cell.low == cell.high or math.isnan(cell.low) else str(cell)
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _plain(answer: Answer) -> dict[str, Any]:
    """The answer as JSON takes it; what is not a number is null."""
    tables = [
        {"title": t.title, "columns": list(t.columns), "rows": [[_number(cell) for cell in row] for row in t.rows]}
        for t in answer.tables
    ]
    facts = {name: _number(value) for name, value in answer.facts.items()}
    return {"facts": facts, "tables": tables, "data": _number(answer.data)}


def _number(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: _number(part) for name, part in value._asdict().items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _number(part) for name, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_number(part) for part in value]  # pyright: ignore[reportUnknownVariableType]
    return value

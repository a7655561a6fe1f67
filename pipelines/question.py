"""The noun `Question`: something asked of a source and, where it takes one, of a trained dictionary; and its answer.

A kind is a file of `pipelines/questions/` with a ``Config``, whose fields a config sets under ``[ask.<kind>]``. What is
measured is a function of :mod:`sae.analysis`; here it is given its rows, and made into tables.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import runner
from pipelines.config.config import Config
from pipelines.config.toml_tables import build
from pipelines.plan import plan
from pipelines.steps.progress import Board
from pipelines.steps.source_steps import open_source
from pipelines.steps.step import Runtime
from pipelines.steps.store import Store
from sae.activations.disk_source import Activations
from sae.dictionary import Dictionary
from sae.files import load
from sae.model.hooked import Model, load_tokenizer
from sae.numerics.atomic_write import write_atomically
from sae.numerics.statistics import Interval
from sae.probing import ProbeExamples, TaskSettings, examples_of
from sae.registry import Settings, UserError, configurable, unknown
from sae.source import Source, SourceConfig
from sae.sources import transformer

QUESTIONS = "pipelines.questions"
AnswerValue = Interval | float | int | str | None
VALUES_AT_ONCE = 1 << 24
"""How many values of units are held at once: rows come in batches of so many for the number of units."""


@dataclass(frozen=True)
class AnswerTable:
    """A table of an answer: a value, an interval, or nothing where there is nothing to tell."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[AnswerValue]]


@dataclass(frozen=True)
class Answer:
    """Tables; what else there is to know, one fact a name; and `data`, which is written and not printed."""

    tables: Sequence[AnswerTable]
    facts: Mapping[str, AnswerValue] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class QuestionContext:
    """Whom a question is asked: the source of a config, a dictionary if one is given. What is missing of the source is
    made when it is first asked for."""

    settings: Config
    dictionary: Dictionary | None
    store: Store
    runtime: Runtime
    board: Board

    @property
    def source_config(self) -> SourceConfig:
        """The settings of the one source; a ``ValueError`` where there are several."""
        first, *others = self.settings.sources
        if others:
            raise UserError(
                f"source: the config has {1 + len(others)}, and a question is asked of one; choose, for example by "
                "--set source.seed=0"
            )
        return first

    @property
    def hook(self) -> str:
        """The hook point of the source; a ``ValueError`` where it is not of a model."""
        hook = getattr(self.source_config, "hook", None)
        if hook is None:
            raise UserError(
                "source: this question is asked of a model's activations; give a source of kind transformer"
            )
        return hook

    @cached_property
    def source(self) -> Source:
        config = self.source_config
        [step] = [s for s in plan(self.settings) if s.stage == config.stage and "source" in s.config]
        runner.run([step], self.store, self.runtime, self.board)
        source = open_source(self.store.directory(step), self.runtime.device)
        if self.dictionary is not None and self.dictionary.d_in != source.d_in:
            raise UserError(
                f"the dictionary takes rows of width {self.dictionary.d_in}, but the source's are {source.d_in} wide"
            )
        return source

    @property
    def activations(self) -> Activations:
        """The source with its tokens; a ``ValueError`` where it is not of a model."""
        assert self.hook
        source = self.source
        assert isinstance(source, Activations)
        return source

    @cached_property
    def model(self) -> Model:
        """The model of the source. That of a transformer is booted without running it over the text."""
        config = self.source_config
        booted = isinstance(config, transformer.Config)
        return config.boot(self.runtime.device) if booted else self.activations.boot()

    @property
    def layer(self) -> int:
        """The layer of the source's hook point."""
        found = re.match(r"blocks\.(\d+)\.", self.hook)
        if found is None:
            raise UserError(f"source.hook = {self.hook!r}: it is in no layer; give the question a layer")
        return int(found[1])

    def needed(self) -> Dictionary:
        """The dictionary; a ``ValueError`` where none was given."""
        if self.dictionary is None:
            raise UserError("this question is about a dictionary: give its folder after the config")
        return self.dictionary.to(self.runtime.device)

    def token(self, ids: Sequence[int]) -> list[str]:
        """Tokens as they are written; as numbers where the model has no words."""
        config = self.source_config
        if not isinstance(config, transformer.Config):
            return [str(i) for i in ids]
        return self._tokenizer.convert_ids_to_tokens(list(ids))

    @cached_property
    def _tokenizer(self) -> Any:
        config = self.source_config
        assert isinstance(config, transformer.Config)
        return load_tokenizer(config.model, config.revision)

    def examples(self, settings: TaskSettings) -> tuple[ProbeExamples, ProbeExamples]:
        """Rows with something known of them, to choose on and to test on; a ``ValueError`` where nothing is known."""
        config = self.source_config
        if not config.provides & {"labels", "codes"}:
            raise UserError("source: nothing is known of its rows; give labelled texts, --set source.labels=FILE")
        found = examples_of(self.source, settings, config)
        return found["train"], found["test"]


class QuestionConfig(Settings, ABC):
    """Settings of one question. Raises ``ValueError`` of one line where it cannot be asked of what is given."""

    seed: int = 0

    @abstractmethod
    def answer(self, asked: QuestionContext) -> Answer: ...


def batches(n: int, n_units: int) -> Iterator[NDArray[np.int64]]:
    """The numbers of rows, in pieces that hold `VALUES_AT_ONCE` values of so many units."""
    size = max(1, VALUES_AT_ONCE // n_units)
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n), dtype=np.int64)


def answer_question(
    question: str, settings: Config, dictionary: str | Path | None, root: Path, board: Board
) -> tuple[Answer, Path]:
    """The answer, and the file that it was written to.

    Raises ``ValueError`` or ``FileNotFoundError`` of one line: an unknown question or setting, a dictionary that does
    not fit, a source that cannot be asked this.
    """
    asked_with = question_config(question, settings.ask)
    d = None if dictionary is None else load(dictionary)
    store = Store(root)
    store.create()
    asked = QuestionContext(settings, d, store, runner.execution(settings.runtime), board)
    folder = root / f"{settings.name}-answers"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: in the way of the answers; move it, or give the config another name")
    answer = asked_with.answer(asked)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{question}.json"
    given = {
        "question": question,
        "settings": asked_with.model_dump(mode="json"),
        "source": asked.source_config.model_dump(mode="json"),
        "dictionary": None if dictionary is None else str(dictionary),
    }
    write_atomically(file, (json.dumps({**given, **_plain(answer)}, indent=1, allow_nan=False) + "\n").encode())
    return answer, file


def question_config(question: str, tables: Mapping[str, Mapping[str, Any]]) -> QuestionConfig:
    """The settings of a question, from the config's ``[ask.<question>]``."""
    known = configurable(QUESTIONS)
    for name in (question, *tables):
        if name not in known:
            raise UserError(unknown(name, known, "question"))
    cls = known[question].Config
    assert issubclass(cls, QuestionConfig)
    return build(cls, tables.get(question, {}), f"ask.{question}")


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

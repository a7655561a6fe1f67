"""Interface of questions: a question about a source and, for some kinds, a trained dictionary, and its answer.

A kind is a module of `pipelines/questions/` with a ``Config``, whose fields a config sets under ``[ask.<kind>]``. The
measures are functions of :mod:`sae.analysis`; a question gathers their inputs and makes tables of the results.
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
from pipelines.plan import source_steps
from pipelines.steps.progress import Board
from pipelines.steps.step import Runtime
from pipelines.steps.store import Store
from sae.activations.disk_source import Activations
from sae.dictionary import Dictionary
from sae.files import load
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.numerics.atomic_write import write_atomically
from sae.numerics.statistics import Interval
from sae.probing import ProbeExamples, TaskSettings, examples_of
from sae.registry import Settings, UserError, configurable, unknown
from sae.source import Source, SourceConfig
from sae.sources import transformer

QUESTIONS = "pipelines.questions"
AnswerValue = Interval | float | int | str | None
VALUES_AT_ONCE = 1 << 24
"""Largest number of values of units in one batch of samples."""


@dataclass(frozen=True)
class AnswerTable:
    """A table of an answer."""

    title: str
    """Title of the table."""
    columns: Sequence[str]
    """Head of each column."""
    rows: Sequence[Sequence[AnswerValue]]
    """Values and intervals; None for an empty cell."""


@dataclass(frozen=True)
class Answer:
    """The answer to a question."""

    tables: Sequence[AnswerTable]
    """The tables, which are printed and written."""
    facts: Mapping[str, AnswerValue] = field(default_factory=dict)
    """Single values by name, which are printed and written."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Further results by name, which are only written."""


@dataclass(frozen=True, eq=False)
class QuestionContext:
    """Context of a question: the source of a config and an optional dictionary. Missing steps of the source are run
    when it is first used."""

    settings: Config
    """The config."""
    dictionary: Dictionary | None
    """The dictionary."""
    store: Store
    """Folder of the steps."""
    runtime: Runtime
    """Device and other settings of execution."""
    board: Board
    """Progress display."""

    @property
    def source_config(self) -> SourceConfig:
        """Settings of the source. Raises `UserError` if the config has several sources."""
        first, *others = self.settings.sources
        if others:
            raise UserError(
                f"source: the config has {1 + len(others)} sources, one is needed; select one, for example with "
                "--set source.seed=0"
            )
        return first

    @property
    def hook(self) -> str:
        """The hook point of the source. Raises `UserError` if the source has no model."""
        hook = getattr(self.source_config, "hook", None)
        if hook is None:
            raise UserError("source: this question needs a model's activations; give a source of kind transformer")
        return hook

    @cached_property
    def source(self) -> Source:
        """The source. Raises `UserError` if its width is not that of the dictionary."""
        assert self.source_config
        [step] = source_steps(self.settings)
        source = runner.prepared_source(step, self.store, self.runtime, self.board)
        if self.dictionary is not None and self.dictionary.d_in != source.d_in:
            raise UserError(
                f"the dictionary takes activations of width {self.dictionary.d_in}, but the source has width "
                f"{source.d_in}; give the config that it was trained with"
            )
        return source

    @property
    def activations(self) -> Activations:
        """The source with its tokens. Raises `UserError` if the source has no model."""
        assert self.hook
        source = self.source
        assert isinstance(source, Activations)
        return source

    @cached_property
    def model(self) -> Model:
        """The model of the source. A transformer is loaded without running it over the text."""
        config = self.source_config
        booted = isinstance(config, transformer.Config)
        return config.boot(self.runtime.device) if booted else self.activations.boot()

    @property
    def layer(self) -> int:
        """The layer of the source's hook point."""
        match = re.match(r"(?:encoder_)?blocks\.(\d+)\.", self.hook)
        if match is None:
            raise UserError(f"source.hook = {self.hook!r}: not in a layer; set the field `layer` of the question")
        return int(match[1])

    def required_dictionary(self) -> Dictionary:
        """The dictionary, on the device. Raises `UserError` if there is none."""
        if self.dictionary is None:
            raise UserError("this question needs a dictionary; give its folder after the config")
        return self.dictionary.to(self.runtime.device)

    def token(self, ids: Sequence[int]) -> list[str]:
        """The text of tokens; their numbers if there is no tokenizer."""
        tokenizer = self._tokenizer
        return [str(i) for i in ids] if tokenizer is None else tokenizer.convert_ids_to_tokens(list(ids))

    @cached_property
    def _tokenizer(self) -> Any:
        config = self.source_config
        if isinstance(config, transformer.Config):
            return load_tokenizer(config.model, config.revision)
        return None if self.activations.tokenizer is None else self.activations.tokenizer()

    def examples(self, settings: TaskSettings) -> tuple[ProbeExamples, ProbeExamples]:
        """Labelled samples to select and to test on. Raises `UserError` if the source has neither labels nor codes."""
        config = self.source_config
        if not config.provides & {"labels", "codes"}:
            raise UserError(
                "source: it has no labels and no known features; give labelled texts with --set source.labels=FILE"
            )
        halves = examples_of(self.source, settings, config)
        return halves["train"], halves["test"]


class QuestionConfig(Settings, ABC):
    """Settings of one kind of question."""

    seed: int = 0
    """Seed of all random draws."""

    @abstractmethod
    def answer(self, context: QuestionContext) -> Answer:
        """The answer. Raises `UserError` if the source or the dictionary does not fit the question."""


def batches(n: int, n_units: int) -> Iterator[NDArray[np.int64]]:
    """The indices of n samples in batches of at most `VALUES_AT_ONCE` values of `n_units` units."""
    size = max(1, VALUES_AT_ONCE // n_units)
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n), dtype=np.int64)


def answer_question(
    question: str, settings: Config, dictionary: str | Path | None, root: Path, board: Board
) -> tuple[Answer, Path]:
    """Answers a question about the source of a config and returns the answer with the file it is written to.

    Raises `UserError` or `MissingFileError`: an unknown question or setting, a dictionary that does not exist or does
    not fit, or a source that does not fit the question.
    """
    config = question_config(question, settings.ask)
    d = None if dictionary is None else load(dictionary)
    store = Store(root)
    store.create()
    context = QuestionContext(settings, d, store, runner.execution(settings.runtime), board)
    folder = root / f"{settings.name}-answers"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder; move it, or rename the config")
    answer = config.answer(context)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{question}.json"
    inputs = {
        "question": question,
        "settings": config.model_dump(mode="json"),
        "source": context.source_config.model_dump(mode="json"),
        "dictionary": None if dictionary is None else str(dictionary),
    }
    write_atomically(file, (json.dumps({**inputs, **_plain(answer)}, indent=1, allow_nan=False) + "\n").encode())
    return answer, file


def question_config(question: str, tables: Mapping[str, Mapping[str, Any]]) -> QuestionConfig:
    """The settings of a question from the config's ``[ask.<question>]``. Raises `UserError` for an unknown question or
    setting."""
    known = configurable(QUESTIONS)
    for name in (question, *tables):
        if name not in known:
            raise UserError(unknown(name, known, "question"))
    cls = known[question].Config
    assert issubclass(cls, QuestionConfig)
    return build(cls, tables.get(question, {}), f"ask.{question}")


def _plain(answer: Answer) -> dict[str, Any]:
    """The answer as JSON values; NaN and infinities are null."""
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

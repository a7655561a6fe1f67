"""What share of neurons, latents and random directions is monosemantic, judged by their top examples.

The measure and its control are those of :mod:`sae.analysis.units.monosemantic`. Examples are held-out samples. In a
text, the classes are the token, the one before and the one after; labels and known features of a toy are used as well.
Random directions, as many as neurons, are a second control: if few tokens have large activations, the examples of a
meaningless direction may agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext, batches
from sae.activations.corpus import Corpus
from sae.activations.disk_source import Activations
from sae.analysis.units.monosemantic import TopExamples, monosemantic_units
from sae.metric import encode
from sae.model.token_rows import NOTHING
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.probing import TaskSettings

_Units = Callable[[Tensor], Tensor]


class Config(QuestionConfig):
    """Settings of the question `monosemantic`."""

    kind: Literal["monosemantic"] = "monosemantic"
    n_rows: int = Field(default=200_000, gt=0)
    """Largest number of held-out samples."""
    k: int = Field(default=10, gt=1)
    """Number of top examples per unit."""
    at_least: float = Field(default=0.9, gt=0, le=1)
    """Share of the examples that have to agree."""
    shuffles: int = Field(default=20, gt=0)
    """Number of permutations of the control."""

    def answer(self, context: QuestionContext) -> Answer:
        rows: list[list[AnswerValue]] = []
        largest: dict[str, list[int]] = {}
        for known in _known(context, self.n_rows):
            for name, (n_units, values) in self._units(context, known.width).items():
                top = TopExamples(self.k, n_units, context.runtime.device)
                for index in batches(len(known.groups), n_units):
                    at = torch.from_numpy(index)
                    top.add(values(known.acts(index)), at, known.groups[at])
                agreements = monosemantic_units(top, known.known, self.at_least, self.shuffles, self.seed)
                for what, a in agreements.items():
                    rows.append([name, what, a.share, a.chance, a.alone, a.n_units, a.n_rare])
                    largest[f"{name}, {what}"] = a.largest.tolist()
        columns = ("units", "agree on", "share", "by chance", "on exactly one", "counted", "too rare")
        title = f"units of which {self.at_least:.0%} of the {self.k} top examples agree"
        return Answer([AnswerTable(title, columns, rows)], {"hook": getattr(context.source_config, "hook", None)},
                      {"largest class among the examples of each counted unit": largest})  # fmt: skip

    def _units(self, context: QuestionContext, d_in: int) -> dict[str, tuple[int, _Units]]:
        random = unit(torch.randn(d_in, d_in, generator=generator("directions", self.seed))).to(context.runtime.device)

        def identity(x: Tensor) -> Tensor:
            return x

        def in_random_directions(x: Tensor) -> Tensor:
            return x @ random.T

        units: dict[str, tuple[int, _Units]] = {"neurons": (d_in, identity)}
        if context.dictionary is not None:
            d = context.required_dictionary()
            units["latents"] = (d.n_latents, partial(encode, d))
        return units | {"random directions": (d_in, in_random_directions)}


class _Rows(NamedTuple):
    """Held-out samples with known classes."""

    acts: Callable[[NDArray[np.int64]], Tensor]
    """The activations of samples by their numbers."""
    groups: Tensor
    """The row of tokens or the document of each sample."""
    known: Mapping[str, Tensor]
    """By kind: the class of each sample, or a column of marks for each label."""
    width: int
    """Width of the activations."""


def _known(context: QuestionContext, n: int) -> Iterator[_Rows]:
    source, device = context.source, context.runtime.device
    if isinstance(source, Activations):
        yield _of_tokens(source, n, device)
    if context.source_config.provides & {"labels", "codes"}:
        _, test = context.examples(TaskSettings(max_rows=n, n_tasks=10**6, min_count=1))
        marks = torch.stack([label > 0 for label in test.labels.values()], dim=1)
        yield _Rows(partial(_rows_of, test.acts.to(device)), test.groups, {"labels": marks}, source.d_in)


def _rows_of(acts: Tensor, index: NDArray[np.int64]) -> Tensor:
    return acts[torch.from_numpy(index)]


def _of_tokens(source: Activations, n: int, device: str) -> _Rows:
    """Held-out samples of text with their tokens as classes."""
    shards = source.shards["test"]
    every = np.arange(min(n, shards.n_rows), dtype=np.int64)
    row, position = (shards.rows(every, name).long() for name in ("row", "position"))
    corpus = Corpus.open(source.directory, "test", source.facts["splits"]["test"]["rows"], source.config.seed)
    tokens = torch.nn.functional.pad(corpus.tokens(np.arange(len(corpus))).long(), (1, 1), value=NOTHING)
    known = {
        name: tokens[row, position + 1 + by] for name, by in (("token", 0), ("next token", 1), ("token before", -1))
    }
    return _Rows(partial(shards.rows, device=device), row, known, source.d_in)

"""What share of neurons, of latents and of random directions mean one thing, by their top examples.

The measure and its control: :mod:`sae.analysis.units.monosemantic`. Examples are held-out rows. A text's rows are
known by
their token, the one before and the one after; where the source has labels, or is a toy whose features are known, the
same is asked of those. Directions drawn at random stand beside, as many as neurons: a basis that means nothing may have
examples that agree, where few tokens are loud.
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
    """`k` examples of each unit from `n_rows` held-out rows; it means one thing where a share `at_least` agree."""

    kind: Literal["monosemantic"] = "monosemantic"
    n_rows: int = Field(default=200_000, gt=0)
    k: int = Field(default=10, gt=1)
    at_least: float = Field(default=0.9, gt=0, le=1)
    shuffles: int = Field(default=20, gt=0)

    def answer(self, asked: QuestionContext) -> Answer:
        rows: list[list[AnswerValue]] = []
        largest: dict[str, list[int]] = {}
        for known in _known(asked, self.n_rows):
            for name, (n_units, values) in self._units(asked, known.width).items():
                top = TopExamples(self.k, n_units, asked.runtime.device)
                for index in batches(len(known.groups), n_units):
                    at = torch.from_numpy(index)
                    top.add(values(known.acts(index)), at, known.groups[at])
                found = monosemantic_units(top, known.known, self.at_least, self.shuffles, self.seed)
                for what, a in found.items():
                    rows.append([name, what, a.share, a.chance, a.alone, a.n_units, a.n_rare])
                    largest[f"{name}, {what}"] = a.largest.tolist()
        columns = ("units", "agree on", "share", "by chance", "on one alone", "counted", "too rare")
        title = f"units of which {self.at_least:.0%} of the {self.k} top examples agree"
        return Answer([AnswerTable(title, columns, rows)], {"hook": getattr(asked.source_config, "hook", None)},
                      {"largest class among the examples of each counted unit": largest})  # fmt: skip

    def _units(self, asked: QuestionContext, d_in: int) -> dict[str, tuple[int, _Units]]:
        turned = unit(torch.randn(d_in, d_in, generator=generator("directions", self.seed))).to(asked.runtime.device)

        def of_themselves(x: Tensor) -> Tensor:
            return x

        def in_random_directions(x: Tensor) -> Tensor:
            return x @ turned.T

        found: dict[str, tuple[int, _Units]] = {"neurons": (d_in, of_themselves)}
        if asked.dictionary is not None:
            d = asked.needed()
            found["latents"] = (d.n_latents, partial(encode, d))
        return found | {"random directions": (d_in, in_random_directions)}


class _Rows(NamedTuple):
    """Rows by their numbers, the rows of tokens or documents that they are in, and what is known of them."""

    acts: Callable[[NDArray[np.int64]], Tensor]
    groups: Tensor
    known: Mapping[str, Tensor]
    width: int


def _known(asked: QuestionContext, n: int) -> Iterator[_Rows]:
    source, device = asked.source, asked.runtime.device
    if isinstance(source, Activations):
        yield _of_tokens(source, n, device)
    if asked.source_config.provides & {"labels", "codes"}:
        _, test = asked.examples(TaskSettings(max_rows=n, n_tasks=10**6, min_count=1))
        marks = torch.stack([label > 0 for label in test.labels.values()], dim=1)
        yield _Rows(partial(_rows_of, test.acts.to(device)), test.groups, {"labels": marks}, source.d_in)


def _rows_of(acts: Tensor, index: NDArray[np.int64]) -> Tensor:
    return acts[torch.from_numpy(index)]


def _of_tokens(source: Activations, n: int, device: str) -> _Rows:
    """Held-out rows of text, known by their tokens."""
    shards = source.shards["test"]
    every = np.arange(min(n, shards.n_rows), dtype=np.int64)
    row, position = (shards.rows(every, name).long() for name in ("row", "position"))
    corpus = Corpus.open(source.directory, "test", source.facts["splits"]["test"]["rows"], source.config.seed)
    tokens = torch.nn.functional.pad(corpus.tokens(np.arange(len(corpus))).long(), (1, 1), value=NOTHING)
    known = {
        name: tokens[row, position + 1 + by] for name, by in (("token", 0), ("next token", 1), ("token before", -1))
    }
    return _Rows(partial(shards.rows, device=device), row, known, source.d_in)

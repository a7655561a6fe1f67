"""How crowded the token embeddings and the unembedding are: cosines, nearest neighbours, effective rank.

The measures and their controls are those of :mod:`sae.analysis.geometry.embeddings`.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.geometry.embeddings import crowding
from sae.analysis.geometry.geometry import expected_nearest
from sae.numerics.seeds import generator


class Config(QuestionConfig):
    """Settings of the question `embeddings`."""

    kind: Literal["embeddings"] = "embeddings"
    most: int = Field(default=20_000, gt=1)
    """Largest number of tokens; of a larger vocabulary a random subset is used."""
    draws: int = Field(default=3, gt=1)
    """Number of random matrices for each control."""

    def answer(self, context: QuestionContext) -> Answer:
        context.model.check_head()
        bridge, tables = context.model.bridge, list[AnswerTable]()
        facts: dict[str, AnswerValue] = {}
        for name, table in (("embedding", bridge.W_E), ("unembedding", bridge.W_U.T)):
            if name == "unembedding" and torch.equal(table, bridge.W_E):
                facts[name] = "the same rows"
                continue
            rows = table.detach().float()
            if len(rows) > self.most:
                rows = rows[torch.randperm(len(rows), generator=generator("embeddings", self.seed))[: self.most]]
            measured = crowding(rows.contiguous(), self.draws, self.seed)
            lines: list[list[AnswerValue]] = [
                [what, *(getattr(part, field) for part in (measured.rows, measured.random, measured.matched))]
                for what, field in (
                    ("mean |cosine|", "mean_cosine"),
                    ("nearest |cosine|, mean", "nearest"),
                    ("largest |cosine|", "largest"),
                    ("effective rank", "effective_rank"),
                    ("dimensions by variance", "dimensions"),
                )
            ]
            columns = ("", "rows", "Gaussian rows", "Gaussian rows, same mean and covariance")
            tables.append(AnswerTable(f"{name}: {len(rows)} rows in {rows.shape[1]} dimensions", columns, lines))
            facts[f"{name}: expected nearest of uniform rows, from above"] = expected_nearest(len(rows), rows.shape[1])
        return Answer(tables, facts)

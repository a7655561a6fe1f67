"""How crowded the token embeddings are, and the unembedding: cosines, nearest neighbours, effective rank.

The measures and their controls: :mod:`sae.analysis.geometry.embeddings`. Of more than `most` tokens as many are drawn
at random.
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
    """`draws` of each control."""

    kind: Literal["embeddings"] = "embeddings"
    most: int = Field(default=20_000, gt=1)
    draws: int = Field(default=3, gt=1)

    def answer(self, asked: QuestionContext) -> Answer:
        bridge, tables = asked.model.bridge, list[AnswerTable]()
        facts: dict[str, AnswerValue] = {}
        for name, table in (("embedding", bridge.W_E), ("unembedding", bridge.W_U.T)):
            if name == "unembedding" and torch.equal(table, bridge.W_E):
                facts[name] = "the same rows"
                continue
            rows = table.detach().float()
            if len(rows) > self.most:
                rows = rows[torch.randperm(len(rows), generator=generator("embeddings", self.seed))[: self.most]]
            found = crowding(rows.contiguous(), self.draws, self.seed)
            told: list[list[AnswerValue]] = [
                [what, *(getattr(part, field) for part in (found.rows, found.random, found.matched))]
                for what, field in (
                    ("mean |cosine|", "mean_cosine"),
                    ("nearest |cosine|, mean", "nearest"),
                    ("largest |cosine|", "largest"),
                    ("effective rank", "effective_rank"),
                    ("dimensions by variance", "dimensions"),
                )
            ]
            columns = ("", "rows", "Gaussian rows", "of their covariance and mean")
            tables.append(AnswerTable(f"{name}: {len(rows)} rows in {rows.shape[1]} dimensions", columns, told))
            facts[f"{name}: expected nearest of uniform rows, from above"] = expected_nearest(len(rows), rows.shape[1])
        return Answer(tables, facts)

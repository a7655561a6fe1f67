"""For each feature that is known: the best neuron, the best latent, the difference of means, and a logistic probe.

The readers and their control: :mod:`sae.analysis.units.one_feature`. Features are the source's labels, or those of a
toy.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from pipelines.questions._features import features_of
from sae.analysis.units.one_feature import ReaderQuality, readers
from sae.numerics.statistics import of_parts


class Config(QuestionConfig):
    """`features` names those to be asked for, all (at most `n_tasks`, the most frequent first) where it is unset."""

    kind: Literal["readers"] = "readers"
    features: tuple[str, ...] = ()
    n_tasks: int = Field(default=8, gt=0)
    min_count: int = Field(default=50, gt=0)
    max_rows: int = Field(default=8192, ge=4)
    shuffles: int = Field(default=5, gt=0)

    def answer(self, asked: QuestionContext) -> Answer:
        told: list[tuple[str, float, list[ReaderQuality]]] = []
        for feature in features_of(asked, self.features, self.n_tasks, self.min_count, self.max_rows):
            every = readers(feature.neurons, feature.latents, feature.known, feature.groups, self.shuffles, self.seed)
            told.append((feature.name, feature.frequency, every))
        names = [reader.name for reader in told[0][2]]
        tables = [
            AnswerTable(
                f"{score} on test rows",
                ("feature", "share of rows", *names),
                [[name, share, *(getattr(r.scores, score.lower()) for r in every)] for name, share, every in told],
            )
            for score in ("AUC", "F1")
        ]
        shuffled: list[list[AnswerValue]] = [
            [name, share, *(r.shuffled.auc for r in every)] for name, share, every in told
        ]
        tables.append(AnswerTable("AUC when chosen by permuted labels", ("feature", "share of rows", *names), shuffled))
        pairs = [("latent", other) for other in names if other != "latent"] if "latent" in names else []
        differences: list[list[AnswerValue]] = [
            [f"{a} less {b}", of_parts([_auc(every, a) - _auc(every, b) for _, _, every in told])] for a, b in pairs
        ]
        if differences:
            tables.append(
                AnswerTable(f"mean difference of AUC over {len(told)} features", ("", "difference"), differences)
            )
        units = {name: {r.name: r.unit for r in every if r.unit is not None} for name, _, every in told}
        return Answer(tables, {}, {"units": units})


def _auc(every: list[ReaderQuality], name: str) -> float:
    return next(r.scores.auc.value for r in every if r.name == name)

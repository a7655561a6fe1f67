"""How well each known feature is predicted by the best neuron, the best latent, a difference of means, and a probe.

The predictors and their control are those of :mod:`sae.analysis.units.one_feature`. Features are the source's labels,
or the true features of a toy.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.config.names import counted
from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from pipelines.questions._features import features_of
from sae.analysis.units.one_feature import ReaderQuality, readers
from sae.numerics.statistics import of_parts


class Config(QuestionConfig):
    """Settings of the question `readers`."""

    kind: Literal["readers"] = "readers"
    features: tuple[str, ...] = ()
    """Names of the features; by default the most frequent ones."""
    n_tasks: int = Field(default=8, gt=0)
    """Largest number of features if none are named."""
    min_count: int = Field(default=50, gt=0)
    """Smallest number of samples with, and without, a feature."""
    max_rows: int = Field(default=8192, ge=4)
    """Largest number of samples per split."""
    shuffles: int = Field(default=5, gt=0)
    """Number of permutations of the control."""

    def answer(self, context: QuestionContext) -> Answer:
        results: list[tuple[str, float, list[ReaderQuality]]] = []
        for feature in features_of(context, self.features, self.n_tasks, self.min_count, self.max_rows):
            every = readers(feature.neurons, feature.latents, feature.known, feature.groups, self.shuffles, self.seed)
            results.append((feature.name, feature.frequency, every))
        names = [reader.name for reader in results[0][2]]
        tables = [
            AnswerTable(
                f"{score} on test samples",
                ("feature", "share of samples", *names),
                [[name, share, *(getattr(r.scores, score.lower()) for r in every)] for name, share, every in results],
            )
            for score in ("AUC", "F1")
        ]
        shuffled: list[list[AnswerValue]] = [
            [name, share, *(r.shuffled.auc for r in every)] for name, share, every in results
        ]
        columns = ("feature", "share of samples", *names)
        tables.append(AnswerTable("AUC when selected with permuted labels", columns, shuffled))
        pairs = [("latent", other) for other in names if other != "latent"] if "latent" in names else []
        differences: list[list[AnswerValue]] = [
            [f"{a} minus {b}", of_parts([_auc(every, a) - _auc(every, b) for _, _, every in results])] for a, b in pairs
        ]
        if differences:
            title = f"mean difference of AUC over {counted(len(results), 'feature')}"
            tables.append(AnswerTable(title, ("", "difference"), differences))
        units = {name: {r.name: r.unit for r in every if r.unit is not None} for name, _, every in results}
        return Answer(tables, {}, {"units": units})


def _auc(every: list[ReaderQuality], name: str) -> float:
    return next(r.scores.auc.value for r in every if r.name == name)

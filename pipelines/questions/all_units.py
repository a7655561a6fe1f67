"""For each feature that is known: over how many neurons, and how many latents, it is spread, and which neurons have to
go before it cannot be read.

The curves, the ablation set and their controls: :mod:`sae.analysis.units.all_units`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from pipelines.questions._features import features_of
from sae.analysis.units.all_units import AblationSet, UnitCurve, ablation_set, k_sparse


class Config(QuestionConfig):
    """`features` names those to be asked for, the `n_tasks` most frequent where it is unset; `most` bounds k."""

    kind: Literal["all_units"] = "all_units"
    features: tuple[str, ...] = ()
    n_tasks: int = Field(default=3, gt=0)
    min_count: int = Field(default=50, gt=0)
    max_rows: int = Field(default=8192, ge=4)
    most: int = Field(default=256, gt=0)
    draws: int = Field(default=5, gt=1)
    tolerance: float = Field(default=0.01, ge=0)

    def answer(self, asked: QuestionContext) -> Answer:
        tables, summary, data, names = list[AnswerTable](), list[list[AnswerValue]](), dict[str, Any](), list[str]()
        for feature in features_of(asked, self.features, self.n_tasks, self.min_count, self.max_rows):
            kinds = {"neurons": feature.neurons, "latents": feature.latents}
            curves = {
                name: k_sparse(units, feature.known, feature.groups, self.tolerance, self.draws, self.most, self.seed)
                for name, units in kinds.items()
                if units is not None
            }
            gone = ablation_set(feature.neurons, feature.known, feature.groups, self.draws, seed=self.seed)
            tables += [_curves(feature.name, curves), _ablated(feature.name, gone)]
            ends = [(c.saturates, c.effective) for c in curves.values()]
            summary.append([feature.name, feature.frequency, *(v for end in ends for v in end), gone.n_needed])
            data[feature.name] = {"ablation set, first first": gone.units.tolist()[: gone.n_needed]}
            names = list(curves)
        columns = ["feature", "share of rows"]
        columns += [f"{name} {what}" for name in names for what in ("saturate at", "effective")]
        whole = AnswerTable("over how many units a feature is spread", [*columns, "neurons to ablate"], summary)
        return Answer([whole, *tables], {}, data)


def _curves(feature: str, curves: dict[str, UnitCurve]) -> AnswerTable:
    ks = sorted({p.k for curve in curves.values() for p in curve.points})
    points = {name: {p.k: p for p in curve.points} for name, curve in curves.items()}
    columns = ["k", *(column for name in curves for column in (name, f"random {name}"))]
    rows: list[Sequence[AnswerValue]] = []
    for k in ks:
        found = [points[name].get(k) for name in curves]
        rows.append([k, *(cell for p in found for cell in ((p.auc, p.random) if p else (None, None)))])
    return AnswerTable(f"{feature}: AUC of probes on k units", columns, rows)


def _ablated(feature: str, found: AblationSet) -> AnswerTable:
    rows = [[p.k, p.auc, p.random, p.refit] for p in found.points]
    columns = ("neurons at their mean", "the probe", "as many at random", "a new probe")
    return AnswerTable(f"{feature}: AUC without its neurons", columns, rows)

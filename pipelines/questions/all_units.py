"""Over how many neurons and latents each known feature is spread, and which neurons have to be ablated to remove it.

The curves, the ablation set and their controls are those of :mod:`sae.analysis.units.all_units`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from pipelines.questions._features import features_of
from sae.analysis.units.all_units import AblationSet, UnitCurve, ablation_set, k_sparse


class Config(QuestionConfig):
    """Settings of the question `all_units`."""

    kind: Literal["all_units"] = "all_units"
    features: tuple[str, ...] = ()
    """Names of the features; by default the most frequent ones."""
    n_tasks: int = Field(default=3, gt=0)
    """Number of features if none are named."""
    min_count: int = Field(default=50, gt=0)
    """Smallest number of samples with, and without, a feature."""
    max_rows: int = Field(default=8192, ge=4)
    """Largest number of samples per split."""
    most: int = Field(default=256, gt=0)
    """Largest number k of units in the curves."""
    draws: int = Field(default=5, gt=1)
    """Number of random sets of units for each control."""
    tolerance: float = Field(default=0.01, ge=0)
    """A curve saturates where its AUC is within this distance of the AUC of all units."""

    def answer(self, context: QuestionContext) -> Answer:
        tables, summary, data, names = list[AnswerTable](), list[list[AnswerValue]](), dict[str, Any](), list[str]()
        for feature in features_of(context, self.features, self.n_tasks, self.min_count, self.max_rows):
            kinds = {"neurons": feature.neurons, "latents": feature.latents}
            curves = {
                name: k_sparse(units, feature.known, feature.groups, self.tolerance, self.draws, self.most, self.seed)
                for name, units in kinds.items()
                if units is not None
            }
            ablated = ablation_set(feature.neurons, feature.known, feature.groups, self.draws, seed=self.seed)
            tables += [_curves(feature.name, curves), _ablations(feature.name, ablated)]
            ends = [(c.saturates, c.effective) for c in curves.values()]
            summary.append([feature.name, feature.frequency, *(v for end in ends for v in end), ablated.n_needed])
            data[feature.name] = {"ablation set, first first": ablated.units.tolist()[: ablated.n_needed]}
            names = list(curves)
        columns = ["feature", "share of samples"]
        columns += [f"{name} {what}" for name in names for what in ("saturate at", "effective")]
        title = "number of units over which each feature is spread"
        overview = AnswerTable(title, [*columns, "neurons to ablate"], summary)
        return Answer([overview, *tables], {}, data)


def _curves(feature: str, curves: dict[str, UnitCurve]) -> AnswerTable:
    ks = sorted({p.k for curve in curves.values() for p in curve.points})
    points = {name: {p.k: p for p in curve.points} for name, curve in curves.items()}
    columns = ["k", *(column for name in curves for column in (name, f"random {name}"))]
    rows: list[Sequence[AnswerValue]] = []
    for k in ks:
        at_k = [points[name].get(k) for name in curves]
        rows.append([k, *(cell for p in at_k for cell in ((p.auc, p.random) if p else (None, None)))])
    return AnswerTable(f"{feature}: AUC of probes on k units", columns, rows)


def _ablations(feature: str, ablated: AblationSet) -> AnswerTable:
    rows = [[p.k, p.auc, p.random, p.refit] for p in ablated.points]
    columns = ("neurons set to their mean", "the probe", "random neurons", "a refitted probe")
    return AnswerTable(f"{feature}: AUC with neurons ablated", columns, rows)

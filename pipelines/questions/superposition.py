"""Are there more features than dimensions? A test from activations alone.

The test and its limits are those of :mod:`sae.analysis.geometry.superposition_test`, and the activities under H0 those
of :mod:`sae.analysis.geometry.few_directions`. Gaussian rows of the same covariance are shown next to it as what they
are: no hypothesis about features.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.geometry.superposition_test import SuperpositionTest, superposition_test

REJECTED_BELOW = 0.05
"""The level at which the hypothesis is rejected in the fact `verdict`."""


class Config(QuestionConfig):
    """Settings of the question `superposition`."""

    kind: Literal["superposition"] = "superposition"
    n_rows: int = Field(default=10_000, gt=1)
    """Number of training samples; half of them are held out from the fits."""
    n_draws: int = Field(default=39, gt=0)
    """Number of redraws under the hypothesis, all fitted anew; p is at least ``1 / (n_draws + 1)``."""
    n_gaussian: int = Field(default=9, ge=0)
    """Number of draws of Gaussian rows, for comparison."""
    ratio: float = Field(default=3.0, gt=1)
    """Directions of the wide dictionary for each dimension."""
    threshold: float = Field(default=0.8, gt=0)
    """The least value that is coded, in standard deviations of the whitened activations."""
    concavity: float = Field(default=4.0, gt=1)
    """Codes above this many thresholds all cost the same."""
    activity: Literal["joint", "independent"] = "joint"
    """Whether the hypothesis keeps which features are active together, or has them independent."""
    n_starts: int = Field(default=6, gt=1)
    """Number of starts of the narrow fit."""

    def answer(self, context: QuestionContext) -> Answer:
        x = context.source.at_most(self.n_rows, "train").acts.float().cpu()
        t = superposition_test(x, count=True, **self.model_dump(exclude={"kind", "n_rows"}))
        saved: list[list[AnswerValue]] = [
            ["the activations", t.advantage, None],
            [f"redrawn under H0, {self.activity} activity", t.null, t.p],
            ["Gaussian rows (not H0)", t.gaussian, t.p_gaussian],
        ]
        fits: list[list[AnswerValue]] = [
            ["narrow", t.n_dims, t.explained_narrow, t.narrow_agreement],
            ["wide", t.n_wide, t.explained_wide, t.wide_agreement],
        ]
        costs: list[list[AnswerValue]] = [[width, cost] for width, cost in t.costs.items()]
        facts: dict[str, AnswerValue] = {
            "rows": len(x),
            "dimensions": t.n_dims,
            "share of values that are active": t.share_active,
            "p of at most as many features as dimensions": t.p,
            "width by held-out cost": t.n_features,
            "verdict": verdict(t),
        }
        tables = [
            AnswerTable("share of the held-out cost that a wide dictionary saves", ("rows", "saved", "p"), saved),
            AnswerTable("dictionaries", ("fit", "width", "explained variance", "agreement of starts"), fits),
            AnswerTable("held-out cost by width", ("width", "cost"), costs),
        ]
        return Answer(tables, facts)


def verdict(t: SuperpositionTest, level: float = REJECTED_BELOW) -> str:
    """What the p-value says, and what it does not."""
    if t.p > level:
        return "no evidence of more features than dimensions"
    return "more directions than dimensions: more features, or a code that is not linear"

"""The geometry of a decoder: antipodal pairs and polytopes among its rows, and whether latents that fire together keep
out of each other's way.

The measures and their controls: :mod:`sae.analysis.geometry.cliques` and :mod:`sae.analysis.geometry.cofiring_cosines`.
Latents that never fire
on the held-out rows are left out; of more than `most` those that fire most often are taken.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext, batches
from sae.analysis.geometry.cliques import counts
from sae.analysis.geometry.cofiring_cosines import FiringCounts, cofiring_cosines
from sae.analysis.geometry.geometry import dimensionality
from sae.analysis.geometry.moments import Moments, matched_gaussian
from sae.metric import encode
from sae.numerics.statistics import Interval, bootstrap, of_draws
from sae.registry import UserError


class Config(QuestionConfig):
    """Figures within `tolerance` of each cosine; latents of `n_rows` held-out rows; `draws` of each control."""

    kind: Literal["decoder"] = "decoder"
    n_rows: int = Field(default=50_000, gt=1)
    most: int = Field(default=4096, gt=2)
    tolerance: float = Field(default=0.1, gt=0, lt=0.5)
    least: int = Field(default=10, gt=0)
    draws: int = Field(default=20, gt=1)

    def answer(self, asked: QuestionContext) -> Answer:
        d, source, device = asked.needed(), asked.source, asked.runtime.device
        n = min(self.n_rows, source.n_rows["test"] or self.n_rows)
        x = source.at_most(n, "test").wanted.float()
        moments, often = Moments(source.d_in, 1, 1), torch.zeros(d.n_latents)
        pieces = [torch.from_numpy(index) for index in batches(len(x), d.n_latents)]
        for index in pieces:
            moments.add(x[index], torch.zeros(len(index), dtype=torch.long))
            often += (encode(d, x[index]) > 0).sum(0).cpu()
        kept = often.argsort(descending=True, stable=True)[: min(self.most, int((often > 0).sum()))]
        if len(kept) < 3:
            raise UserError(
                f"the dictionary: {len(kept)} of its latents fire on {len(x)} held-out rows; three are needed"
            )
        firings = FiringCounts(len(kept), device)
        for index in pieces:
            firings.add(encode(d, x[index])[:, kept.to(x.device)])
        rows, covariance = d.W_dec[kept.to(d.W_dec.device)], moments.covariance()
        together = cofiring_cosines(rows, firings, covariance, self.least, 10 * self.draws, self.seed)
        found = counts(rows, covariance, self.tolerance, self.draws, self.seed)
        figures: list[list[AnswerValue]] = [[c.figure, c.n, c.n_chance, c.rows, c.rows_chance] for c in found]
        pairs: list[list[AnswerValue]] = [
            ["fire together", together.n_together, together.together, None, None],
            ["keep apart", together.n_apart, together.apart, None, None],
            ["difference", None, together.difference, together.permuted, together.matched],
        ]
        facts = {"rows": len(x), "latents that fire": int((often > 0).sum()), "latents taken": len(kept)}
        tables = [
            AnswerTable("figures in the decoder", ("figure", "sets", "by chance", "share of rows", "by chance"),
            figures),
            AnswerTable("dimensions per latent, mean", ("of the decoder", "by chance"), [self._dimensions(rows,
            covariance)]),
            AnswerTable("mean |cosine| of pairs of latents",
                  ("pairs", "number", "mean", "firings permuted", "of the activations' covariance"), pairs),
        ]  # fmt: skip
        ids = kept.tolist()
        sets = {c.figure: [[ids[i] for i in example] for example in c.examples] for c in found}
        return Answer(tables, facts, {"nearest examples, by latent": sets})

    def _dimensions(self, rows: torch.Tensor, covariance: torch.Tensor) -> list[AnswerValue]:
        own = dimensionality(rows.float()).double().cpu().numpy().astype(np.float64)
        null = [
            float(dimensionality(r.float()).mean())
            for r in matched_gaussian(covariance, len(rows), self.seed, self.draws)
        ]
        return [Interval(float(own.mean()), *bootstrap(own, self.seed)), of_draws(null)]

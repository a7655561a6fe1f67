"""Geometry of a decoder: antipodal pairs and polytopes among its rows, and cosines of latents that fire together.

The measures and their controls are those of :mod:`sae.analysis.geometry.cliques` and
:mod:`sae.analysis.geometry.cofiring_cosines`. Only latents that fire on the held-out samples count.
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
    """Settings of the question `decoder`."""

    kind: Literal["decoder"] = "decoder"
    n_rows: int = Field(default=50_000, gt=1)
    """Number of held-out samples."""
    most: int = Field(default=4096, gt=2)
    """Largest number of latents; those that fire most often are used."""
    tolerance: float = Field(default=0.1, gt=0, lt=0.5)
    """Largest difference between a cosine and that of the regular figure."""
    least: int = Field(default=10, gt=0)
    """Smallest number of samples in which a pair of latents fires together, or is expected to."""
    draws: int = Field(default=20, gt=1)
    """Number of random decoders for each control."""

    def answer(self, context: QuestionContext) -> Answer:
        d, source, device = context.required_dictionary(), context.source, context.runtime.device
        n = min(self.n_rows, source.n_rows["test"] or self.n_rows)
        x = source.at_most(n, "test").wanted.float()
        moments, n_fired = Moments(source.d_in, 1, 1), torch.zeros(d.n_latents)
        pieces = [torch.from_numpy(index) for index in batches(len(x), d.n_latents)]
        for index in pieces:
            moments.add(x[index], torch.zeros(len(index), dtype=torch.long))
            n_fired += (encode(d, x[index]) > 0).sum(0).cpu()
        n_alive = int((n_fired > 0).sum())
        latents = n_fired.argsort(descending=True, stable=True)[: min(self.most, n_alive)]
        if len(latents) < 3:
            raise UserError(
                f"the dictionary: {len(latents)} of its latents fire on {len(x)} held-out samples, three are needed; "
                "raise ask.decoder.n_rows or give another dictionary"
            )
        firings = FiringCounts(len(latents), device)
        for index in pieces:
            firings.add(encode(d, x[index])[:, latents.to(x.device)])
        rows, covariance = d.W_dec[latents.to(d.W_dec.device)], moments.covariance()
        together = cofiring_cosines(rows, firings, covariance, self.least, 10 * self.draws, self.seed)
        figure_counts = counts(rows, covariance, self.tolerance, self.draws, self.seed)
        figures: list[list[AnswerValue]] = [[c.figure, c.n, c.n_chance, c.rows, c.rows_chance] for c in figure_counts]
        pairs: list[list[AnswerValue]] = [
            ["fire together", together.n_together, together.together, None, None],
            ["do not fire together", together.n_apart, together.apart, None, None],
            ["difference", None, together.difference, together.permuted, together.matched],
        ]
        facts = {"rows": len(x), "latents that fire": n_alive, "latents used": len(latents)}
        columns = ("figure", "sets", "sets by chance", "share of decoder rows", "share by chance")
        of_pairs = ("pairs", "number", "mean", "permuted firings", "random rows, covariance of activations")
        tables = [
            AnswerTable("regular figures in the decoder", columns, figures),
            AnswerTable("dimensions per latent, mean", ("decoder", "by chance"), [self._dimensions(rows, covariance)]),
            AnswerTable("mean |cosine| of pairs of latents", of_pairs, pairs),
        ]
        ids = latents.tolist()
        sets = {c.figure: [[ids[i] for i in example] for example in c.examples] for c in figure_counts}
        return Answer(tables, facts, {"nearest examples, by latent": sets})

    def _dimensions(self, rows: torch.Tensor, covariance: torch.Tensor) -> list[AnswerValue]:
        values = dimensionality(rows.float()).double().cpu().numpy().astype(np.float64)
        null = [
            float(dimensionality(r.float()).mean())
            for r in matched_gaussian(covariance, len(rows), self.seed, self.draws)
        ]
        return [Interval(float(values.mean()), *bootstrap(values, self.seed)), of_draws(null)]

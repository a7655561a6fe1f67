"""Dictionary learning: sparse codes and directions in turns, from no more than the activations.

    min over W_dec and z >= 0 of  sum_rows 1/2 ||x - z W_dec||^2 + l1 sum_j z_j,    ||W_dec[j]|| = 1

with codes by FISTA (:func:`sae.coding.lasso`), and directions from the statistics of codes, ``A = keep A + z^T z`` and
``B = keep B + z^T x``, in one of two modes:

`online`: rows in small batches, ``keep = (1 - 1 / t)^forget`` at batch t, so that about the last ``1 / (forget + 1)``
of all batches count (Mairal, Bach, Ponce and Sapiro 2010, algorithm 1 and section 3.4); over many rounds of few rows,
whose codes become better, that is best kept to a round or two. After each batch one pass of block coordinate descent
over the directions, ``W_dec[j] += (B_j - A_j W_dec) / A_jj`` (``update = "descent"``, their algorithm 2), or all at
once, ``W_dec = (A + e)^-1 (B + e W_dec)`` (``"solve"``); scaled to norm one.

`batch`: the codes of all rows, begun at those of the round before, ``keep = 0``, directions all at once: the method of
optimal directions (Engan et al. 1999), until they stand still. So does the DL-FISTA of Pacela et al. 2026.

A direction that no row of a round has used takes what the worst reconstructed of its last rows are missing; Mairal's
section 3.4 takes rows themselves. Where `l1_end` is given the penalty goes there evenly from round to round. What comes
out is read by FISTA with the last penalty.

scikit-learn's ``MiniBatchDictionaryLearning`` has non-negative codes too, and a test holds both to the same objective.
It was not taken because it has one mode of the two and no way to forget, which makes the difference (on 12,000 rows of
Sharkey's toy an mcc of .83 without, .96 with); because it codes row by row what is coded in products here (there a pass
takes it 4.7 times as long, in one thread); and because what is learned is then read by the solver that it was learned
with. :mod:`sae.refine` is a relative that begins at a trained dictionary, takes the shrinkage off the codes, and moves
latents to where they are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.coding import fitted_directions, lasso, lasso_multiply_adds, unit_or
from sae.encoders.fista import Fista
from sae.method import MethodConfig, training_rows
from sae.seeds import derive, generator
from sae.source import Source
from sae.spent import Spent
from sae.stack import first_directions

AT_ONCE = 128
"""Rows that are coded at once: few enough to stay in the processor's cache."""
RIDGE = {"online": 1e-3, "batch": 1e-6}
"""e, as a share of the mean of A's diagonal: holds directions that were hardly seen where they are."""
LEAST_ROUNDS = 10
"""Rounds before it counts that directions stand still."""


class Config(MethodConfig):
    """Settings. `n_samples` rows are gone over at most `rounds` times; `batch` ends sooner where the directions change
    by less than a share `standstill`. `l1` and `l1_end` are in units of the mean norm of the rows, or in those of the
    activations (``units = "raw"``). `start`: different rows of the data, or directions drawn from the sphere. FISTA
    takes at most `n_iterations` for a row in a round, and `read_iterations` when the dictionary is read; `batch_size`,
    `forget` and `update` are those of `online`."""

    kind: Literal["dictionary_learning"] = "dictionary_learning"
    n_latents: int = Field(gt=0)
    mode: Literal["online", "batch"] = "online"
    n_samples: int = Field(12_000, gt=0)
    rounds: int = Field(6, gt=0)
    l1: float = Field(0.08, gt=0)
    l1_end: float | None = Field(None, gt=0)
    units: Literal["norm", "raw"] = "norm"
    start: Literal["data", "random"] = "data"
    batch_size: int = Field(256, gt=0)
    forget: float = Field(2.0, ge=0)
    update: Literal["solve", "descent"] = "solve"
    n_iterations: int = Field(100, gt=0)
    read_iterations: int = Field(100, gt=0)
    tolerance: float = Field(1e-3, ge=0)
    standstill: float = Field(1e-5, ge=0)

    @torch.no_grad()
    def fit(self, source: Source, seed: int) -> Fista:
        x = training_rows(source, self.n_samples, seed)
        unit_of_l1 = float(x.norm(dim=-1).mean()) if self.units == "norm" else 1.0
        rows = x[x.norm(dim=-1) > 0]
        if len(rows) == 0:
            raise ValueError(f"dictionary_learning: each of the {len(x)} training rows is zero; check the source")
        own, nothing = derive("dictionary_learning", seed), torch.zeros(source.d_in)
        learner = Learner(first_directions(self.start, own, self.n_latents, nothing, rows), self)
        penalties = [l1 * unit_of_l1 for l1 in self.penalties()]
        rounds = learner.by_rounds(rows, penalties) if self.mode == "batch" else learner.online(rows, penalties, own)
        d = Fista.over(learner.W_dec, nothing, penalties[-1], self.read_iterations, 0.0, self.tolerance)
        return d.with_card(rounds=rounds, **self.spent(d.W_dec, len(rows), rounds).entry())

    def penalties(self) -> list[float]:
        """The penalty of every round."""
        end, last = self.l1 if self.l1_end is None else self.l1_end, max(1, self.rounds - 1)
        return [self.l1 + (end - self.l1) * i / last for i in range(self.rounds)]

    def spent(self, W_dec: Tensor, n_rows: int, rounds: int) -> Spent:
        """Different rows, rows gone over, and multiply-adds: at most those of FISTA, and those of the updates."""
        n, d_in = W_dec.shape
        solves = self.mode == "batch" or self.update == "solve"
        updates = rounds * (1 if self.mode == "batch" else -(-n_rows // self.batch_size))
        of_a_row = lasso_multiply_adds(W_dec, self.n_iterations) + n * (n + d_in)
        of_an_update = n * n * d_in + (n**3 // 3 if solves else 0)
        samples = rounds * n_rows
        return Spent(n_rows, samples, samples * of_a_row + updates * of_an_update)


@dataclass
class Learner:
    """The directions while they are learned."""

    W_dec: Float[Tensor, "n_latents d_in"]
    config: Config

    def codes(
        self, x: Float[Tensor, "rows d_in"], l1: float, start: Float[Tensor, "rows n_latents"] | None = None
    ) -> Float[Tensor, "rows n_latents"]:
        """Lasso codes of rows, a few at once."""
        begins = [None] * -(-len(x) // AT_ONCE) if start is None else start.split(AT_ONCE)
        how = self.config.n_iterations, self.config.tolerance
        pieces = zip(x.split(AT_ONCE), begins, strict=True)
        return torch.cat([lasso(rows @ self.W_dec.T - l1, self.W_dec, *how, begin) for rows, begin in pieces])

    def by_rounds(self, x: Float[Tensor, "rows d_in"], penalties: list[float]) -> int:
        """Mode `batch`; returns how many rounds it took."""
        z = None
        for done, l1 in enumerate(penalties, start=1):
            z, before = self.codes(x, l1, z), self.W_dec
            self.solve(z.T @ z, z.T @ x)
            stands = float((self.W_dec - before).norm() / before.norm()) < self.config.standstill
            if stands and done >= LEAST_ROUNDS and l1 == penalties[-1]:
                return done
            if done < len(penalties):
                self.replace(~(z > 0).any(0), x, z)
        return len(penalties)

    def online(self, x: Float[Tensor, "rows d_in"], penalties: list[float], seed: int) -> int:
        """Mode `online`; returns how many rounds it took."""
        n, t = len(self.W_dec), 0
        second, cross = x.new_zeros(n, n), x.new_zeros(n, x.shape[1])
        for done, l1 in enumerate(penalties, start=1):
            used = torch.zeros(n, dtype=torch.bool)
            order = torch.randperm(len(x), generator=generator("order", seed, done)).split(self.config.batch_size)
            for index in order:
                rows, t = x[index], t + 1
                z, keep = self.codes(rows, l1), (1 - 1 / t) ** self.config.forget
                second, cross = keep * second + z.T @ z, keep * cross + z.T @ rows
                used |= (z > 0).any(0)
                if self.config.update == "solve":
                    self.solve(second, cross)
                else:
                    self.descend(second, cross)
                if index is order[-1] and done < len(penalties):
                    replaced = self.replace(~used, rows, z)
                    second[replaced], second[:, replaced], cross[replaced] = 0, 0, 0
        return len(penalties)

    def solve(self, second: Float[Tensor, "n_latents n_latents"], cross: Float[Tensor, "n_latents d_in"]) -> None:
        """All directions at once; they stay where no code is above 0."""
        ridge = RIDGE[self.config.mode] * max(float(second.diagonal().mean()), 1e-30)
        self.W_dec = unit_or(fitted_directions(second, cross, self.W_dec, ridge), self.W_dec)

    def descend(self, second: Float[Tensor, "n_latents n_latents"], cross: Float[Tensor, "n_latents d_in"]) -> None:
        """One direction after the other; one that no code has used stays."""
        W_dec = self.W_dec.clone()
        for j, power in enumerate(second.diagonal().tolist()):
            if power > 0:
                own = W_dec[j] + (cross[j] - second[j] @ W_dec) / power
                W_dec[j] = own / own.norm().clamp_min(1e-12)
        self.W_dec = W_dec

    def replace(self, unused: Tensor, x: Float[Tensor, "rows d_in"], z: Float[Tensor, "rows n_latents"]) -> Tensor:
        """Gives unused directions to the rows with the largest residuals, one each; returns which were given."""
        latents = unused.nonzero()[:, 0][: len(x)]
        if len(latents):
            residual = x - z @ self.W_dec
            worst = residual.norm(dim=-1).topk(len(latents)).indices
            self.W_dec = self.W_dec.index_copy(0, latents, unit_or(residual[worst], self.W_dec[latents]))
        return latents

"""Dictionary learning: sparse codes and directions in turns, from no more than the activations.

    min over W_dec and z >= 0 of  sum_rows 1/2 ||x - z W_dec||^2 + l1 sum_j z_j,    ||W_dec[j]|| = 1

with codes by FISTA (:func:`sae.numerics.sparse_coding.lasso`), and directions from the statistics of codes, ``A =
keep A + z^T z`` and
``B = keep B + z^T x``, in one of two modes:

`online`: rows in small batches, ``keep = (1 - 1 / t)^forget`` at batch t, so that about the last ``1 / (forget + 1)``
of all batches count (Mairal, Bach, Ponce and Sapiro 2010, algorithm 1 and section 3.4); over many rounds of few rows,
whose codes become better, that is best kept to a round or two. After each batch one pass of block coordinate descent
over the directions, ``W_dec[j] += (B_j - A_j W_dec) / A_jj`` (``update = "descent"``, their algorithm 2), or all at
once, ``W_dec = (A + e)^-1 (B + e W_dec)`` (``"solve"``); scaled to norm one.

`batch`: the codes of all rows, begun at those of the round before, ``keep = 0``, directions all at once: the method of
optimal directions (Engan et al. 1999), until they stand still. So does the DL-FISTA of Pacela et al. 2026. It is slow:
with a thousand features nothing seems to happen for hundreds of rounds, then most are found at once. Two things that
it has not:

- `momentum` (Polyak 1964): ``V = momentum V + (directions of least squares - W_dec)``, ``W_dec += V``, to norm one.
- `debiased` last rounds, whose directions fit codes without the shrinkage: non-negative least squares on what the lasso
  with `debiased_l1` has left active. With shrunk codes the true directions are not where this ends, even begun there
  (`python -m benchmarks.toys begun_at_the_truth`). :mod:`sae.refinement` does the same.

A direction that no row of a round has used takes what the worst reconstructed of its last rows are missing; Mairal's
section 3.4 takes rows themselves. What comes out is read by FISTA with the penalty `l1`.

scikit-learn's ``MiniBatchDictionaryLearning`` has non-negative codes too, and a test holds both to the same objective.
It was not taken because it has one mode of the two and no way to forget, which makes the difference (on 12,000 rows of
Sharkey's toy an mcc of .83 without, .96 with); because it codes row by row what is coded in products here (there a pass
takes it 4.7 times as long, in one thread); and because what is learned is then read by the solver that it was learned
with. :mod:`sae.refinement` is a relative that begins at a trained dictionary, takes the shrinkage off the codes, and
moves
latents to where they are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.baseline import BaselineConfig, training_rows
from sae.encoders.fista import Fista
from sae.numerics.fit_cost import FitCost
from sae.numerics.seeds import derive, generator
from sae.numerics.sparse_coding import debiased, fitted_directions, lasso, lasso_multiply_adds, unit_or
from sae.registry import UserError
from sae.source import Source
from sae.training.stack import first_directions

_AT_ONCE = 128
"""Rows that are coded at once: few enough to stay in the processor's cache."""
_RIDGE = {"online": 1e-3, "batch": 1e-6}
"""e, as a share of the mean of A's diagonal: holds directions that were hardly seen where they are."""
LEAST_ROUNDS = 10
"""Rounds before it counts that directions stand still."""


class Config(BaselineConfig):
    """Settings. `n_samples` rows are gone over at most `rounds` times; `batch` ends sooner where the directions change
    by less than a share `standstill`. `l1` and `debiased_l1` (the same, where none is given) are in units of the mean
    norm of the rows, or in those of the activations (``units = "raw"``). `start`: different rows of the data, or
    directions drawn from the sphere. FISTA takes at most `n_iterations` for a row in a round, and `read_iterations`
    when the dictionary is read; `batch_size`, `forget` and `update` are those of `online`, `momentum` and `debiased`
    those of `batch`."""

    kind: Literal["dictionary_learning"] = "dictionary_learning"
    n_latents: int = Field(gt=0)
    mode: Literal["online", "batch"] = "online"
    n_samples: int = Field(12_000, gt=0)
    rounds: int = Field(6, gt=0)
    l1: float = Field(0.08, gt=0)
    units: Literal["norm", "raw"] = "norm"
    start: Literal["data", "random"] = "data"
    batch_size: int = Field(256, gt=0)
    forget: float = Field(2.0, ge=0)
    update: Literal["solve", "descent"] = "solve"
    n_iterations: int = Field(100, gt=0)
    read_iterations: int = Field(100, gt=0)
    tolerance: float = Field(1e-3, ge=0)
    standstill: float = Field(1e-5, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    debiased: int = Field(0, ge=0)
    debiased_l1: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _batch_alone_has_them(self) -> Config:
        if self.mode == "online" and (self.momentum or self.debiased):
            raise UserError('momentum and debiased are of mode = "batch"')
        if self.debiased_l1 is not None and not self.debiased:
            raise UserError("debiased_l1 is of debiased rounds, and debiased is 0")
        return self

    @torch.no_grad()
    def fit(self, source: Source, seed: int) -> Fista:
        x = training_rows(source, self.n_samples, seed)
        unit_of_l1 = float(x.norm(dim=-1).mean()) if self.units == "norm" else 1.0
        rows = x[x.norm(dim=-1) > 0]
        if len(rows) == 0:
            raise UserError(f"dictionary_learning: each of the {len(x)} training rows is zero; check the source")
        own, nothing = derive("dictionary_learning", seed), torch.zeros(source.d_in)
        learner = Learner(first_directions(self.start, own, self.n_latents, nothing, rows), self)
        l1 = self.l1 * unit_of_l1
        if self.mode == "batch":
            rounds, z = learner.by_rounds(rows, l1)
            learner.without_shrinkage(rows, l1 if self.debiased_l1 is None else self.debiased_l1 * unit_of_l1, z)
        else:
            rounds = learner.online(rows, l1, own)
        d = Fista.over(learner.W_dec, nothing, l1, self.read_iterations, 0.0, self.tolerance)
        return d.with_card(rounds=rounds, **self.fit_cost(d.W_dec, len(rows), rounds).card_entry())

    def fit_cost(self, W_dec: Tensor, n_rows: int, rounds: int) -> FitCost:
        """Different rows, rows gone over, and multiply-adds: at most those of FISTA, and those of the updates."""
        n, d_in = W_dec.shape
        solves = self.mode == "batch" or self.update == "solve"
        updates = rounds * (1 if self.mode == "batch" else -(-n_rows // self.batch_size))
        of_codes, of_statistics = lasso_multiply_adds(W_dec, self.n_iterations), n * (n + d_in)
        of_an_update = n * n * d_in + (n**3 // 3 if solves else 0)
        rows, rows_twice = rounds * n_rows, self.debiased * n_rows
        of_rows = (rows + 2 * rows_twice) * of_codes + (rows + rows_twice) * of_statistics
        return FitCost(n_rows, rows + rows_twice, of_rows + (updates + self.debiased) * of_an_update)


@dataclass
class Learner:
    """The directions while they are learned."""

    W_dec: Float[Tensor, "n_latents d_in"]
    config: Config

    def codes(
        self, x: Float[Tensor, "rows d_in"], l1: float, start: Float[Tensor, "rows n_latents"] | None = None
    ) -> Float[Tensor, "rows n_latents"]:
        """Lasso codes of rows, a few at once."""
        begins = [None] * -(-len(x) // _AT_ONCE) if start is None else start.split(_AT_ONCE)
        how = self.config.n_iterations, self.config.tolerance
        pieces = zip(x.split(_AT_ONCE), begins, strict=True)
        return torch.cat([lasso(rows @ self.W_dec.T - l1, self.W_dec, *how, begin) for rows, begin in pieces])

    def by_rounds(self, x: Float[Tensor, "rows d_in"], l1: float) -> tuple[int, Float[Tensor, "rows n_latents"]]:
        """Mode `batch`; returns how many rounds it took, and the last codes."""
        z, velocity, done = x.new_zeros(len(x), len(self.W_dec)), torch.zeros_like(self.W_dec), 0
        for done in range(1, self.config.rounds + 1):
            z, before = self.codes(x, l1, z), self.W_dec
            self.solve(z.T @ z, z.T @ x)
            velocity = self.config.momentum * velocity + self.W_dec - before
            if self.config.momentum:
                self.W_dec = unit_or(before + velocity, before)
            stands = float((self.W_dec - before).norm() / before.norm()) < self.config.standstill
            if done == self.config.rounds or (stands and done >= LEAST_ROUNDS):
                break
            velocity[self.replace(~(z > 0).any(0), x, z)] = 0
        return done, z

    def without_shrinkage(self, x: Float[Tensor, "rows d_in"], l1: float, z: Float[Tensor, "rows n_latents"]) -> None:
        """The `debiased` rounds of mode `batch`, from codes to begin at."""
        how = self.config.n_iterations, self.config.tolerance
        for _ in range(self.config.debiased):
            z = self.codes(x, l1, z)
            pieces = zip(x.split(_AT_ONCE), z.split(_AT_ONCE), strict=True)
            least = torch.cat([debiased(codes, rows @ self.W_dec.T, self.W_dec, *how) for rows, codes in pieces])
            self.solve(least.T @ least, least.T @ x)

    def online(self, x: Float[Tensor, "rows d_in"], l1: float, seed: int) -> int:
        """Mode `online`; returns how many rounds it took."""
        n, t = len(self.W_dec), 0
        second, cross = x.new_zeros(n, n), x.new_zeros(n, x.shape[1])
        for done in range(1, self.config.rounds + 1):
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
                if index is order[-1] and done < self.config.rounds:
                    replaced = self.replace(~used, rows, z)
                    second[replaced], second[:, replaced], cross[replaced] = 0, 0, 0
        return self.config.rounds

    def solve(self, second: Float[Tensor, "n_latents n_latents"], cross: Float[Tensor, "n_latents d_in"]) -> None:
        """All directions at once; they stay where no code is above 0."""
        ridge = _RIDGE[self.config.mode] * max(float(second.diagonal().mean()), 1e-30)
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

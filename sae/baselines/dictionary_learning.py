"""Dictionary learning: alternates between sparse codes and directions, with no truth or labels.

    min over W_dec and z >= 0 of  sum_samples 1/2 ||x - z W_dec||^2 + l1 sum_j z_j,    ||W_dec[j]|| = 1

Codes are computed by FISTA (:func:`sae.numerics.sparse_coding.lasso`), directions from the statistics of the codes,
``A = keep A + z^T z`` and ``B = keep B + z^T x``, in one of two modes.

`online`: mini-batches, with ``keep = (1 - 1 / t)^forget`` at batch t, so that about the last ``1 / (forget + 1)`` of
all batches count (Mairal, Bach, Ponce and Sapiro 2010, algorithm 1 and section 3.4). With many rounds over few samples,
whose codes improve from round to round, choose `forget` so that only a round or two count. After each batch the
directions are updated by one pass of block coordinate descent, ``W_dec[j] += (B_j - A_j W_dec) / A_jj``
(``update = "descent"``, their algorithm 2), or all at once, ``W_dec = (A + e)^-1 (B + e W_dec)``
(``update = "solve"``), then scaled to norm one.

`batch`: codes of all samples, starting from those of the previous round, with ``keep = 0`` and all directions at once,
until the directions converge: the method of optimal directions (Engan et al. 1999), as in the DL-FISTA of Pacela et al.
2026. It is slow: with a thousand features the scores hardly change for hundreds of rounds, then most features are found
within a few. Two options are added to it:

- `momentum` (Polyak 1964): ``V = momentum V + (directions of least squares - W_dec)``, ``W_dec += V``, to norm one.
- `debiased` final rounds fit the directions to codes without shrinkage: non-negative least squares on the latents that
  the lasso with `debiased_l1` leaves active. With shrunk codes the true directions are not a fixed point
  (`python -m benchmarks.toys init_at_truth`). :mod:`sae.refinement` does the same.

A direction that no sample uses in a round is replaced by the residual of the sample that is reconstructed worst; Mairal
et al. (section 3.4) use the sample itself. The resulting dictionary encodes by FISTA with the penalty `l1`.

scikit-learn's ``MiniBatchDictionaryLearning`` also has non-negative codes, and a test compares the objectives. It is
not used here for three reasons. It has only the online mode and no forgetting, which matters (on 12,000 samples of
Sharkey's toy the mcc is .83 without, .96 with it). It codes one sample at a time instead of a batch by matrix products
(one pass takes 4.7 times as long there, in one thread). And its dictionary would not be encoded by the solver that it
was learned with. :mod:`sae.refinement` is related: it starts at a trained dictionary, removes the shrinkage from the
codes, and moves latents to where they are missing.
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
"""Samples that are coded at once: few enough to stay in the processor's cache."""
_RIDGE = {"online": 1e-3, "batch": 1e-6}
"""e, as a share of the mean of A's diagonal: keeps directions that are rarely used close to their old values."""
MIN_ROUNDS = 10
"""Convergence is checked from this round on."""


class Config(BaselineConfig):
    """Dictionary learning with non-negative lasso codes.

    `momentum` and `debiased` need mode `batch`, and `debiased_l1` needs `debiased`. Fitting raises `UserError` where
    all training samples are zero.
    """

    kind: Literal["dictionary_learning"] = "dictionary_learning"
    n_latents: int = Field(gt=0)
    """Number of directions."""
    mode: Literal["online", "batch"] = "online"
    """Updates after each mini-batch (`online`), or after the codes of all samples (`batch`)."""
    n_samples: int = Field(12_000, gt=0)
    """Number of training samples."""
    rounds: int = Field(6, gt=0)
    """Maximum number of passes over the samples."""
    l1: float = Field(0.08, gt=0)
    """Penalty of the lasso, in learning and in the resulting dictionary; see `units`."""
    units: Literal["norm", "raw"] = "norm"
    """`l1` and `debiased_l1` are in units of the mean norm of the samples (`norm`) or of the activations (`raw`)."""
    start: Literal["data", "random"] = "data"
    """Initial directions: different samples (`data`), or directions drawn from the sphere (`random`)."""
    batch_size: int = Field(256, gt=0)
    """Samples per mini-batch in mode `online`."""
    forget: float = Field(2.0, ge=0)
    """Exponent by which mode `online` discounts older batches; 0 weighs all alike."""
    update: Literal["solve", "descent"] = "solve"
    """How mode `online` updates directions: all at once (`solve`) or by coordinate descent (`descent`)."""
    n_iterations: int = Field(100, gt=0)
    """Maximum number of FISTA iterations per sample and round."""
    read_iterations: int = Field(100, gt=0)
    """Maximum number of FISTA iterations per sample when the resulting dictionary encodes."""
    tolerance: float = Field(1e-3, ge=0)
    """FISTA stops when no code of a sample changes by more than this share of the sample's largest code."""
    standstill: float = Field(1e-5, ge=0)
    """Mode `batch` stops when the directions change by less than this share of their norm in a round."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of the directions in mode `batch`."""
    debiased: int = Field(0, ge=0)
    """Number of final rounds without shrinkage in mode `batch`."""
    debiased_l1: float | None = Field(None, gt=0)
    """Penalty that selects the active latents of the debiased rounds; `l1` if None."""

    @model_validator(mode="after")
    def _options_fit_the_mode(self) -> Config:
        if self.mode == "online" and (self.momentum or self.debiased):
            name = "momentum" if self.momentum else "debiased"
            raise UserError(f'{name} = {getattr(self, name)}: needs mode = "batch"; set the mode or leave {name} out')
        if self.debiased_l1 is not None and not self.debiased:
            raise UserError(
                f"debiased_l1 = {self.debiased_l1}: has no effect with debiased = 0; set debiased to 1 or more"
            )
        return self

    @torch.no_grad()
    def fit(self, source: Source, seed: int) -> Fista:
        x = training_rows(source, self.n_samples, seed)
        unit_of_l1 = float(x.norm(dim=-1).mean()) if self.units == "norm" else 1.0
        rows = x[x.norm(dim=-1) > 0]
        if len(rows) == 0:
            raise UserError(f"dictionary_learning: all {len(x)} training samples are zero; check the source")
        derived_seed, zeros = derive("dictionary_learning", seed), torch.zeros(source.d_in)
        learner = Learner(first_directions(self.start, derived_seed, self.n_latents, zeros, rows), self)
        l1 = self.l1 * unit_of_l1
        if self.mode == "batch":
            rounds, z = learner.run_batch(rows, l1)
            learner.run_debiased(rows, l1 if self.debiased_l1 is None else self.debiased_l1 * unit_of_l1, z)
        else:
            rounds = learner.run_online(rows, l1, derived_seed)
        d = Fista.over(learner.W_dec, zeros, l1, self.read_iterations, 0.0, self.tolerance)
        return d.with_card(rounds=rounds, **self.fit_cost(d.W_dec, len(rows), rounds).card_entry())

    def fit_cost(self, W_dec: Tensor, n_samples: int, rounds: int) -> FitCost:
        """Cost of a fit; the multiply-adds are an upper bound, because FISTA may stop early."""
        n, d_in = W_dec.shape
        solves = self.mode == "batch" or self.update == "solve"
        updates = rounds * (1 if self.mode == "batch" else -(-n_samples // self.batch_size))
        code_cost, statistics_cost = lasso_multiply_adds(W_dec, self.n_iterations), n * (n + d_in)
        update_cost = n * n * d_in + (n**3 // 3 if solves else 0)
        coded_once, coded_twice = rounds * n_samples, self.debiased * n_samples
        samples = coded_once + coded_twice
        work = (coded_once + 2 * coded_twice) * code_cost + samples * statistics_cost
        return FitCost(n_samples, samples, work + (updates + self.debiased) * update_cost)


@dataclass
class Learner:
    """Directions during learning, and the updates that change them."""

    W_dec: Float[Tensor, "n_latents d_in"]
    """Current directions, of norm one."""
    config: Config
    """Settings of the fit."""

    def codes(
        self, x: Float[Tensor, "batch d_in"], l1: float, start: Float[Tensor, "batch n_latents"] | None = None
    ) -> Float[Tensor, "batch n_latents"]:
        """Lasso codes, computed in small blocks of samples; FISTA starts at the codes `start`, or at zero."""
        starts = [None] * -(-len(x) // _AT_ONCE) if start is None else start.split(_AT_ONCE)
        n_iterations, tolerance = self.config.n_iterations, self.config.tolerance
        blocks = zip(x.split(_AT_ONCE), starts, strict=True)
        return torch.cat(
            [lasso(rows @ self.W_dec.T - l1, self.W_dec, n_iterations, tolerance, codes) for rows, codes in blocks]
        )

    def run_batch(self, x: Float[Tensor, "batch d_in"], l1: float) -> tuple[int, Float[Tensor, "batch n_latents"]]:
        """Runs mode `batch`; returns the number of rounds and the last codes."""
        z, velocity, done = x.new_zeros(len(x), len(self.W_dec)), torch.zeros_like(self.W_dec), 0
        for done in range(1, self.config.rounds + 1):
            z, before = self.codes(x, l1, z), self.W_dec
            self.solve(z.T @ z, z.T @ x)
            velocity = self.config.momentum * velocity + self.W_dec - before
            if self.config.momentum:
                self.W_dec = unit_or(before + velocity, before)
            converged = float((self.W_dec - before).norm() / before.norm()) < self.config.standstill
            if done == self.config.rounds or (converged and done >= MIN_ROUNDS):
                break
            velocity[self.replace(~(z > 0).any(0), x, z)] = 0
        return done, z

    def run_debiased(self, x: Float[Tensor, "batch d_in"], l1: float, z: Float[Tensor, "batch n_latents"]) -> None:
        """Runs the `debiased` rounds of mode `batch`, starting from the codes `z`."""
        n_iterations, tolerance = self.config.n_iterations, self.config.tolerance
        for _ in range(self.config.debiased):
            z = self.codes(x, l1, z)
            blocks = zip(x.split(_AT_ONCE), z.split(_AT_ONCE), strict=True)
            unshrunk = torch.cat(
                [debiased(codes, rows @ self.W_dec.T, self.W_dec, n_iterations, tolerance) for rows, codes in blocks]
            )
            self.solve(unshrunk.T @ unshrunk, unshrunk.T @ x)

    def run_online(self, x: Float[Tensor, "batch d_in"], l1: float, seed: int) -> int:
        """Runs mode `online`; returns the number of rounds."""
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
        """Updates all directions at once; those without a positive code do not change."""
        ridge = _RIDGE[self.config.mode] * max(float(second.diagonal().mean()), 1e-30)
        self.W_dec = unit_or(fitted_directions(second, cross, self.W_dec, ridge), self.W_dec)

    def descend(self, second: Float[Tensor, "n_latents n_latents"], cross: Float[Tensor, "n_latents d_in"]) -> None:
        """Updates the directions in order; those without a positive code do not change."""
        W_dec = self.W_dec.clone()
        for j, power in enumerate(second.diagonal().tolist()):
            if power > 0:
                direction = W_dec[j] + (cross[j] - second[j] @ W_dec) / power
                W_dec[j] = direction / direction.norm().clamp_min(1e-12)
        self.W_dec = W_dec

    def replace(self, unused: Tensor, x: Float[Tensor, "batch d_in"], z: Float[Tensor, "batch n_latents"]) -> Tensor:
        """Replaces unused directions by the largest residuals, one each; returns the indices of those replaced."""
        latents = unused.nonzero()[:, 0][: len(x)]
        if len(latents):
            residual = x - z @ self.W_dec
            worst = residual.norm(dim=-1).topk(len(latents)).indices
            self.W_dec = self.W_dec.index_copy(0, latents, unit_or(residual[worst], self.W_dec[latents]))
        return latents

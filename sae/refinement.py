"""Refinement: from a trained dictionary, alternates stagewise codes and least-squares directions on the training data.

    z       = stagewise least-squares codes of a batch (:mod:`sae.numerics.stagewise`),  r = x - b_dec - z W_dec
    change  = argmin ||r - z change||^2 + sum_j h_j ||change_j||^2
    W_dec  += change,  rows scaled to norm one;    h_j = keep * (h_j + sum z_j^2)

The directions of an autoencoder are limited by its one-layer encoder and, with L1, by shrinkage; these codes have
neither, so that the true directions are a fixed point. h is the energy of the codes of earlier batches, which holds
each direction where they have put it; the least squares are solved by conjugate gradients over the active codes alone,
so that memory grows with the number of latents and not with its square. Online dictionary learning (Mairal et al.
2010) keeps the statistics of all pairs instead.

Alternation stops at local optima, in which latents are wasted (:mod:`sae.training.wasted_latents`): two share a
feature's direction, one is a mixture of others, or a feature is always coded by the same two. Every few steps such
latents are found, without knowing the features, and moved to directions that badly reconstructed samples share.

It assumes that most of the activity has a latent, and looks for as few active latents as possible. Where the
dictionary is far too small, or where a feature fires only together with another one of constant size, it makes
latents for combinations: a Matryoshka dictionary of such data is better left alone (docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary, check_one_dictionary
from sae.encoder import encoder_rows, taken
from sae.encoders.stagewise import FITTED_PER_ACTIVE, Stagewise
from sae.numerics.arrays import Numbers, integer_of, plain_value
from sae.numerics.conjugate_gradients import SparseRows, damped_least_squares
from sae.numerics.fit_cost import FitCost
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.stagewise import SupportCodes, deviations_for, stagewise
from sae.registry import Settings, checked_settings
from sae.source import Source, as_source
from sae.training.wasted_latents import Pairs, explained_by_others, shared_directions

WORST = 32
"""One of this many samples, the worst reconstructed, is kept as a candidate for a new direction."""
_SOLVES = 10
"""Iterations of the conjugate gradients."""
_KEPT_BATCHES = 8
"""Batches whose codes are searched for pairs that code one feature."""


class RefineConfig(Settings):
    """Settings of a refinement."""

    steps: int = Field(180, gt=0)
    """Alternations of sparse coding and update of the directions."""
    batch_size: int = Field(4096, gt=0)
    """Samples of one step."""
    false_alarms: float = Field(0.02, gt=0)
    """The number of latents per sample that chance adds in a round of coding, on average."""
    rounds: int = Field(3, gt=0)
    """Rounds of coding."""
    k: int = Field(32, gt=0)
    """The most active latents of a sample."""
    keep: float = Field(0.9, ge=0, lt=1)
    """The weight of the earlier batches from one step to the next."""
    replace_every: int = Field(4, gt=0)
    """Steps between two replacements of latents."""
    replace_until: float = Field(0.8, ge=0, le=1)
    """The share of the steps during which latents are replaced."""
    firings: int = Field(100, ge=0)
    """After the last replacement a direction remembers at least about this many samples in which its latent fires."""
    rare: float = Field(2e-5, ge=0, lt=1)
    """Latents that fire in less than this share of the samples at the end are dropped."""


def refine(d: Dictionary, x: Numbers | Source, seed: int = 0, **settings: Any) -> Dictionary:
    """The dictionary `d` with refined directions, encoded by ``stagewise``.

    `x` is a matrix ``[rows, d_in]`` (a fifth of it is held out, as in :func:`sae.fit`) or a source; `settings` are
    those of :class:`RefineConfig`. :meth:`Dictionary.with_encoder` gives the result another encoder. It may have fewer
    latents than `d`: unused ones are dropped. Raises `UserError` where `x` or a setting does not fit.
    """
    check_one_dictionary(d)
    plain = {name: plain_value(value) for name, value in settings.items()}
    config, seed = checked_settings(RefineConfig, plain, ("seed",)), integer_of("seed", seed)
    return refined(d, as_source(x, d.d_in), config, seed)


def refined(d: Dictionary, source: Source, config: RefineConfig, seed: int) -> Stagewise:
    """The same from a config."""
    state, n_sd = Fit.of(d, seed), deviations_for(config.false_alarms, d.n_latents)
    last = config.replace_until * config.steps
    for step in range(config.steps):
        x = encoder_rows(source, d, 10_000 * (seed + 1) + step, config.batch_size)
        found = stagewise(x - state.b_dec, state.W_dec, n_sd, config.rounds, config.k)
        keep = min(step / (step + 3), config.keep)
        problem = state.look(found, keep, config.firings if step > last else 0)
        # Codes of before a replacement do not know the new directions.
        if not (step % config.replace_every == 0 and step < last and state.replace()):
            state.move(problem.solution())
    used = state.fired / max(state.n_rows, 1.0) > config.rare
    W_dec = state.W_dec[used] if bool(used.any()) else state.W_dec
    none, support = W_dec.new_zeros(len(W_dec)), round(float(state.fired.sum()) / max(state.n_rows, 1.0), 3)
    kept = Stagewise(
        W_dec.T.contiguous(),
        W_dec,
        none,
        state.b_dec,
        threshold=none,
        n_sd=n_sd,
        rounds=config.rounds,
        k=config.k,
        mean_support=support,
    )
    card = {**d.card, "refine": {**config.model_dump(), "seed": seed}}
    if (before := FitCost.of(d.card)) is not None:
        card |= before.plus(_fit_cost(d, source, config, support), source.n_rows["train"]).card_entry()
    return kept.with_card(**card)


def _fit_cost(d: Dictionary, source: Source, config: RefineConfig, support: float) -> FitCost:
    """The training cost of a refinement: for each sample of a step the rounds of coding, with two fits of twice the
    mean support each, and the conjugate gradients over its active codes."""
    n, samples = min(config.k, FITTED_PER_ACTIVE * support), config.steps * taken(source, config.batch_size)
    fits = 2 * config.rounds * (n * d.d_in + n * n * d.d_in + n**3)
    a_sample = config.rounds * d.n_latents * d.d_in + round(fits + 2 * (_SOLVES + 1) * support * d.d_in)
    return FitCost.training(samples, samples * a_sample, source.n_rows["train"])


class UpdateProblem(NamedTuple):
    """The least squares of an update of the directions."""

    z: SparseRows
    """The codes of a batch."""
    residual: Float[Tensor, "rows d_in"]
    """What they leave of the samples."""
    held: Float[Tensor, " n"]
    """h, by which earlier batches hold each direction."""

    def solution(self) -> Float[Tensor, "n d_in"]:
        """The change of the directions, and at last of the bias where it is fitted."""
        return damped_least_squares(self.z, self.residual, self.held, _SOLVES)


@dataclass
class Fit:
    """The directions, and statistics of the samples so far; older samples count less."""

    W_dec: Float[Tensor, "n_latents d_in"]
    """The directions, unit rows."""
    b_dec: Float[Tensor, " d_in"]
    """The decoder bias."""
    biased: bool
    """Whether the bias is fitted, as the direction of one more latent whose code is 1 in every sample."""
    held: Float[Tensor, " n"]
    """h, by which each direction (and at last the bias, where it is fitted) is held."""
    energy: Float[Tensor, " n_latents"]
    """The squares of the codes."""
    fired: Float[Tensor, " n_latents"]
    """Number of samples in which each latent fires."""
    draw: torch.Generator
    """Draws the samples that latents are moved to where no direction is shared."""
    n_rows: float = 0.0
    """Number of samples."""
    seen: list[SupportCodes] = field(default_factory=list[SupportCodes])
    """The codes of the last batches."""
    missing: list[Tensor] = field(default_factory=list[Tensor])
    """Residuals of the worst samples since the last replacement."""
    n_looked: int = 0
    """Number of samples since the last replacement."""

    @classmethod
    def of(cls, d: Dictionary, seed: int = 0) -> Fit:
        biased = bool(d.b_dec.any())
        zeros = d.W_dec.new_zeros(d.n_latents + int(biased))
        each = torch.zeros_like(d.W_dec[:, 0])
        return cls(unit(d.W_dec), d.b_dec, biased, zeros, each, each.clone(), generator("refine", seed))

    def look(self, found: SupportCodes, keep: float, firings: int) -> UpdateProblem:
        """Adds the codes of a batch to the statistics; returns the problem of the directions that fit them."""
        n, (rows, k) = len(self.W_dec), found.code.shape
        row = torch.arange(rows, device=found.code.device).repeat_interleave(k)
        active = found.code.flatten() > 0
        entries = (row[active], found.latent.flatten()[active], found.code.flatten()[active])
        fired = entries[1].bincount(minlength=n).to(self.energy)
        square = torch.zeros_like(self.energy).index_add_(0, entries[1], entries[2].square())
        held = torch.full_like(self.held, keep)
        if firings:
            held[:n] = torch.maximum(held[:n], 1 - fired / firings)
        held *= self.held
        if self.biased:
            everywhere = torch.arange(rows, device=row.device)
            entries = (
                torch.cat([entries[0], everywhere]),
                torch.cat([entries[1], torch.full_like(everywhere, n)]),
                torch.cat([entries[2], entries[2].new_ones(rows)]),
            )
        problem = UpdateProblem(SparseRows.of(*entries, rows, len(self.held)), found.residual, held)
        self.held = held + torch.cat([square, square.new_full((1,), float(rows))]) if self.biased else held + square
        self.energy, self.fired = keep * self.energy + square, keep * self.fired + fired
        self.n_rows, self.n_looked = keep * self.n_rows + rows, self.n_looked + rows
        self.seen = [*self.seen, found][-_KEPT_BATCHES:]
        residual = found.residual
        self.missing.append(residual[residual.norm(dim=-1).topk(-(-rows // WORST)).indices])
        return problem

    def move(self, change: Float[Tensor, "n d_in"]) -> None:
        """Adds a change to the directions and the bias."""
        n = len(self.W_dec)
        moved = self.W_dec + change[:n]
        self.W_dec = unit(torch.where(moved.norm(dim=-1, keepdim=True) > 0, moved, self.W_dec))
        if self.biased:
            self.b_dec = self.b_dec + change[n]

    def replace(self) -> int:
        """Moves wasted latents, and those that contribute least, to directions that residuals share, as long as those
        would contribute more; returns how many have been moved."""
        energy = self.energy / max(self.n_rows, 1.0)
        wasted, moved = explained_by_others(self.W_dec, energy), 0
        for pair in Pairs.of(self.seen, len(self.W_dec)).coding_one_feature(self.W_dec):
            if bool(wasted[pair.frequent] | wasted[pair.rare]):
                continue
            # Together they are one direction: that of the frequent latent if it has no other use, else of the rare one.
            self._reset(pair.frequent if pair.always_together else pair.rare, pair.direction)
            wasted[pair.rare] = pair.always_together
            moved += 1
        missing = torch.cat(self.missing)
        least, order = torch.where(wasted, torch.zeros_like(energy), energy).sort(stable=True)
        found = 0
        for direction, gain in shared_directions(missing):
            if found == len(least) or gain / self.n_looked <= float(least[found]):
                break
            self._reset(int(order[found]), direction)
            found += 1
        wasted[order[:found]] = False
        for latent in wasted.nonzero()[:, 0].tolist():
            some = missing[int(torch.randint(len(missing), (1,), generator=self.draw))]
            if float(some.norm()) > 0:
                self._reset(latent, unit(some[None])[0])
                moved += 1
        self.seen, self.missing, self.n_looked = [], [], 0
        return moved + found

    def _reset(self, latent: int, direction: Tensor) -> None:
        self.W_dec[latent] = direction
        self.held[latent] = self.energy[latent] = self.fired[latent] = 0

"""Refinement: from a trained dictionary, alternates sparse coding and dictionary updates on the training data.

    z     = non-negative lasso codes of a batch, with a penalty that falls from step to step; debiased in the end
    A, B  = keep * A + z^T z,  keep * B + z^T (x - b_dec)
    W_dec = A^-1 B,  rows scaled to norm one

Online dictionary learning (Mairal et al. 2010, algorithm 1), its update solved exactly as in the method of optimal
directions (Engan et al. 1999). The directions of an L1 autoencoder are limited by its one-layer encoder and by
shrinkage; here they follow from codes that have neither at the end. Early codes keep their shrinkage: without it,
directions that explain a feature together are not pushed apart. A latent that contributes less than a direction shared
by badly reconstructed samples is replaced by that direction. The true features are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary, check_one_dictionary
from sae.encoder import N_NORM, encoder_rows, mean_norm, taken
from sae.encoders.fista import Fista
from sae.numerics.arrays import Numbers, integer_of, plain_value
from sae.numerics.fit_cost import FitCost
from sae.numerics.matching import unit
from sae.numerics.sparse_coding import LassoCodes, fitted_directions, lasso_multiply_adds, sparse_codes, unit_or
from sae.registry import Settings, checked_settings
from sae.source import Source, as_source

WORST = 32
"""One of this many samples, the worst reconstructed, is kept as a candidate for a new direction."""
ALONG = 0.7
"""The cosine above which two residuals share a direction."""
_RIDGE = 1e-3
"""Ridge of the least squares, towards the old directions: those with few samples stay near where they were."""


class RefineConfig(Settings):
    """Settings of a refinement. Penalties and thresholds are in units of the mean norm of ``x - b_dec``."""

    steps: int = Field(40, gt=0)
    """Alternations of sparse coding and dictionary update."""
    batch_size: int = Field(4096, gt=0)
    """Samples of one step."""
    l1: float = Field(0.08, ge=0)
    """The penalty of the first step."""
    l1_end: float = Field(0.015, ge=0)
    """The penalty of the last step."""
    threshold: float = Field(0.03, ge=0)
    """Codes below this are set to zero."""
    n_iterations: int = Field(100, gt=0)
    """The most iterations of the lasso for a sample."""
    tolerance: float = Field(3e-3, ge=0)
    """A sample has converged when no code changes by more than this share of its largest code."""
    replace_every: int = Field(2, gt=0)
    """Steps between two replacements of latents."""
    replace_until: float = Field(0.7, ge=0, le=1)
    """The share of the steps during which latents are replaced."""
    same: float = Field(0.9, gt=0, le=1)
    """Of two latents whose cosine is above this, one counts as contributing nothing."""
    rare: float = Field(2e-5, ge=0, lt=1)
    """Latents that fire in less than this share of the samples at the end are dropped."""


def refine(d: Dictionary, x: Numbers | Source, seed: int = 0, **settings: Any) -> Dictionary:
    """The dictionary `d` with refined directions, encoded by ``fista``.

    `x` is a matrix ``[rows, d_in]`` (a fifth of it is held out, as in :func:`sae.fit`) or a source; `settings` are
    those of :class:`RefineConfig`. :meth:`Dictionary.with_encoder` gives the result another encoder. It may have fewer
    latents than `d`: unused ones are dropped. Raises `UserError` where `x` or a setting does not fit.
    """
    check_one_dictionary(d)
    plain = {name: plain_value(value) for name, value in settings.items()}
    config, seed = checked_settings(RefineConfig, plain, ("seed",)), integer_of("seed", seed)
    return refined(d, as_source(x, d.d_in), config, seed)


def refined(d: Dictionary, source: Source, config: RefineConfig, seed: int) -> Fista:
    """The same from a config."""
    norm, state = mean_norm(d, source), Fit.of(d)
    threshold = config.threshold * norm
    for step in range(config.steps):
        x = encoder_rows(source, d, 10_000 * (seed + 1) + step, config.batch_size)
        part = step / max(1, config.steps - 1)
        l1 = (config.l1 + (config.l1_end - config.l1) * part) * norm
        codes = sparse_codes(x - state.b_dec, state.W_dec, l1, threshold, config.n_iterations, config.tolerance)
        state.look(x, codes, shrunk=part < config.replace_until, keep=step / (step + 3))
        replaces = step % config.replace_every == 0 and part < config.replace_until
        if not (
            replaces and state.replace(config.same)
        ):  # codes of before a replacement do not know the new directions
            state.solve(len(x))
    used = state.share > config.rare
    directions = state.W_dec[used] if bool(used.any()) else state.W_dec
    kept = Fista.over(directions, state.b_dec, config.l1_end * norm, 2 * config.n_iterations, threshold, 1e-3)
    card = {**d.card, "refine": {**config.model_dump(), "seed": seed}}
    if (before := FitCost.of(d.card)) is not None:
        card |= before.plus(_fit_cost(d, source, config), source.n_rows["train"]).card_entry()
    return kept.with_card(**card)


def _fit_cost(d: Dictionary, source: Source, config: RefineConfig) -> FitCost:
    """The training cost of a refinement: for each sample of a step two lassos, the second to debias, and the statistics
    A and B; for each step the solution of least squares."""
    n, d_in = d.n_latents, d.d_in
    norm, batch = taken(source, N_NORM), taken(source, config.batch_size)
    a_row = 2 * lasso_multiply_adds(d.W_dec, config.n_iterations) + n * (n + d_in)
    a_step = batch * a_row + n**3 // 3 + n**2 * d_in
    samples = norm + config.steps * batch
    return FitCost.training(samples, norm * d_in + config.steps * a_step, source.n_rows["train"])


@dataclass
class Fit:
    """The directions, and statistics of the samples so far; older samples count less, by the factor `keep` of a
    step."""

    W_dec: Float[Tensor, "n_latents d_in"]
    """The directions, unit rows."""
    b_dec: Float[Tensor, " d_in"]
    """The decoder bias."""
    biased: bool
    """Whether the bias is fitted, as the direction of one more latent whose code is 1 in every sample."""
    second: Float[Tensor, "n n"]
    """A, the second moments of the codes."""
    cross: Float[Tensor, "n d_in"]
    """B, the products of codes and samples."""
    firings: Float[Tensor, " n_latents"]
    """Number of samples in which each latent fires."""
    n_rows: float = 0.0
    """Number of samples."""
    missing: list[Tensor] = field(default_factory=list[Tensor])
    """Residuals of the worst samples since the last replacement."""
    n_looked: int = 0
    """Number of samples since the last replacement."""

    @classmethod
    def of(cls, d: Dictionary) -> Fit:
        biased = bool(d.b_dec.any())
        n = d.n_latents + int(biased)
        return cls(
            unit(d.W_dec),
            d.b_dec,
            biased,
            d.W_dec.new_zeros(n, n),
            d.W_dec.new_zeros(n, d.d_in),
            torch.zeros_like(d.b_enc),
        )

    @property
    def share(self) -> Float[Tensor, " n_latents"]:
        """The share of samples in which each latent fires."""
        return self.firings / max(self.n_rows, 1.0)

    def look(self, x: Float[Tensor, "rows d_in"], found: LassoCodes, shrunk: bool, keep: float) -> None:
        """Adds samples and their codes to the statistics, and keeps the residuals of the worst."""
        z = found.shrunk if shrunk else found.debiased
        codes = torch.cat([z, torch.ones_like(z[:, :1])], 1) if self.biased else z
        rows = x if self.biased else x - self.b_dec
        self.second = keep * self.second + codes.T @ codes
        self.cross = keep * self.cross + codes.T @ rows
        self.firings = keep * self.firings + (found.debiased > 0).sum(0)
        self.n_rows = keep * self.n_rows + len(x)
        residual = x - self.b_dec - found.debiased @ self.W_dec
        self.missing.append(residual[residual.norm(dim=-1).topk(-(-len(x) // WORST)).indices])
        self.n_looked += len(x)

    def solve(self, batch_size: int) -> None:
        """Sets the directions of least squares; a latent that never fired keeps its direction."""
        n = len(self.W_dec)
        before = torch.cat([self.W_dec, self.b_dec[None]]) if self.biased else self.W_dec
        after = fitted_directions(self.second, self.cross, before, _RIDGE * self.n_rows / batch_size)
        self.W_dec = unit_or(after[:n], self.W_dec)
        if self.biased:
            self.b_dec = after[n]

    def replace(self, same: float) -> int:
        """Replaces the latents that contribute least by directions that residuals share, as long as those would
        contribute more; returns how many."""
        energy = self.second.diagonal()[: len(self.W_dec)] / max(self.n_rows, 1.0)
        energy = torch.where(doubles(self.W_dec, energy, same), torch.zeros_like(energy), energy)
        least, order = energy.sort(stable=True)
        found = 0
        for direction, gain in shared_directions(torch.cat(self.missing)):
            if found == len(least) or gain / self.n_looked <= float(least[found]):
                break
            latent = int(order[found])
            self.W_dec[latent] = direction
            for statistic in (self.second, self.second.T, self.cross):
                statistic[latent] = 0
            self.firings[latent] = 0
            found += 1
        self.missing, self.n_looked = [], 0
        return found


def doubles(
    W_dec: Float[Tensor, "n_latents d_in"], energy: Float[Tensor, " n_latents"], same: float
) -> Bool[Tensor, " n_latents"]:
    """Latents whose direction another latent of larger energy shares."""
    alike = (W_dec @ W_dec.T > same).fill_diagonal_(False)
    place = torch.arange(len(energy), device=energy.device)
    larger = (energy > energy[:, None]) | ((energy == energy[:, None]) & (place < place[:, None]))
    return (alike & larger).any(1)


def shared_directions(residuals: Float[Tensor, "rows d_in"]) -> Iterator[tuple[Float[Tensor, " d_in"], float]]:
    """Directions shared by at least two residuals, with the energy of those residuals, the largest first."""
    norm = residuals.norm(dim=-1)
    towards = unit(residuals)
    alike = (towards @ towards.T > ALONG).float()
    left = torch.ones_like(norm)
    while True:
        gains = (alike @ (norm.square() * left)) * left * (alike @ left >= 2)
        best = int(gains.argmax())
        gain = float(gains[best])
        if gain <= 0:
            return
        members = alike[best] * left
        yield unit((members[:, None] * residuals).sum(0, keepdim=True))[0], gain
        left = left * (1 - members)

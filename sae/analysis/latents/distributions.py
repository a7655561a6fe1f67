"""Histograms and correlations of the activations of latents, counted in a pass after that of an exploration.

An exploration counts activations in bins of equal ratio, since the largest is not known before the pass. Here each
latent has bins of equal width between its smallest and its largest activation, and, for activations z of latent j and a
variable y over all n samples,

    pearson = (n sum zy - sum z sum y) / sqrt((n sum z^2 - (sum z)^2) (n sum y^2 - (sum y)^2))
    cosine  = sum zy / sqrt(sum z^2 sum y^2)

with y the coordinates of the activations that the dictionary reads, and the latents that fire with it most.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.latents.explore import Exploration
from sae.analysis.latents.logit_effects import DirectEffects
from sae.dictionary import Dictionary
from sae.source import Progress


class Histograms(NamedTuple):
    """One histogram with bins of equal width for each latent."""

    height: Int[Tensor, "n_shown n_bins"]
    """The entries in each bin."""
    centre: Float[Tensor, "n_shown n_bins"]
    """The middle of each bin."""

    @classmethod
    def empty(cls, least: Float[Tensor, " n_shown"], most: Float[Tensor, " n_shown"], n_bins: int) -> Histograms:
        """Bins between the smallest and the largest value of each latent."""
        middle = (torch.arange(n_bins) + 0.5) / n_bins
        height = torch.zeros(len(least), n_bins, dtype=torch.int64)
        return cls(height, least[:, None] + (most - least)[:, None] * middle)

    def add_(self, latent: Int[Tensor, " entries"], place: Float[Tensor, " entries"]) -> None:
        """Counts entries, each by its place between the smallest (0) and the largest value (1) of its latent."""
        n_bins = self.height.shape[1]
        at = (place * n_bins).floor().long().clamp(0, n_bins - 1)
        counts = (latent * n_bins + at).bincount(minlength=self.height.numel())
        self.height.add_(counts.view_as(self.height))


class Correlated(NamedTuple):
    """For each shown latent, the variables with the largest Pearson correlation; -1 and NaN if there are fewer."""

    variable: Int[Tensor, "n_shown n"]
    """The variables, the largest correlation first."""
    pearson: Float[Tensor, "n_shown n"]
    """The correlations of their values with the latent's activations."""
    cosine: Float[Tensor, "n_shown n"]
    """The cosines between both, over all samples."""


class Distributions(NamedTuple):
    """What a second pass over the samples of an exploration counts, in the order of its shown latents."""

    histograms: Histograms
    """The positive activations of each latent."""
    interval_share: Float[Tensor, "n_shown n_intervals"]
    """The share of the samples with an activation in each equal part between 0 and the largest, the highest first."""
    coordinates: Correlated
    """The coordinates of the activations."""
    partners: Correlated
    """Among the latents that fire with each latent most (`Exploration.partners`), those whose activations do."""
    n_rows: int
    """The rows of tokens, or samples, that were read."""


def distributions(d: Dictionary, explored: Exploration, n_bins: int, n_best: int, progress: Progress) -> Distributions:
    """Reads the samples of an exploration once more and counts; `n_best` is the number of correlated variables."""
    shown, tally = explored.shown, explored.tally
    least, most = tally.least[shown].clamp(max=tally.most[shown]), tally.most[shown]
    n_intervals = explored.settings.n_intervals
    histograms = Histograms.empty(least, most, n_bins)
    intervals = Histograms.empty(torch.zeros_like(most), most, n_intervals)
    partners = explored.partners.latent
    with_axes = _Sums.zeros(len(shown), d.d_in)
    with_partners = _Sums.zeros(len(shown), partners.shape[1])
    n_rows = n_read = 0
    for piece in explored.reading.pieces():
        with torch.no_grad():
            z = d.encode(piece.acts).float()
        of_shown, acts = z[:, shown.to(z.device)], piece.acts.float()
        sample, latent = (of_shown > 0).nonzero(as_tuple=True)
        value, latent = of_shown[sample, latent].cpu(), latent.cpu()
        histograms.add_(latent, (value - least[latent]) / (most - least)[latent].clamp_min(1e-30))
        # Intervals are open below: an activation at a border belongs to the lower one, as in the examples.
        intervals.add_(latent, (value / most[latent] * n_intervals).ceil().sub(0.5) / max(1, n_intervals))
        with_axes.add(of_shown, of_shown.T @ acts, acts.sum(0), acts.square().sum(0))
        columns = [z[:, one.to(z.device)] for one in partners.clamp_min(0).T]
        sums = [((of_shown * y).sum(0), y.sum(0), y.square().sum(0)) for y in columns]
        with_partners.add(of_shown, *(torch.stack(part, 1) for part in zip(*sums, strict=True)))
        n_rows, n_read = n_rows + len(piece.row.unique()), n_read + len(z)
        progress(n_read, tally.n_vectors, "vectors, again")
    axes = torch.arange(d.d_in).expand(len(shown), -1)
    return Distributions(
        histograms,
        intervals.height.flip(1).double().div(max(1, n_read)).float(),
        with_axes.best(axes, n_best),
        with_partners.best(partners, n_best),
        n_rows,
    )


class _Sums:
    """Sums over samples for the correlations of each shown latent with a number of variables, in float64."""

    def __init__(self, zy: Tensor, y: Tensor, y2: Tensor, z: Tensor, z2: Tensor) -> None:
        self.zy, self.y, self.y2, self.z, self.z2, self.n = zy, y, y2, z, z2, 0

    @classmethod
    def zeros(cls, n_shown: int, n: int) -> _Sums:
        return cls(*(torch.zeros(n_shown, width, dtype=torch.float64) for width in (n, n, n, 1, 1)))

    def add(self, z: Tensor, zy: Tensor, y: Tensor, y2: Tensor) -> None:
        """Adds a batch of activations `z`, with the sums of the variables `y` for all latents or for each."""
        self.n += len(z)
        own = z.sum(0)[:, None], z.square().sum(0)[:, None]
        for total, new in zip((self.zy, self.y, self.y2, self.z, self.z2), (zy, y, y2, *own), strict=True):
            total += new.cpu()

    def best(self, index: Int[Tensor, "n_shown n"], k: int) -> Correlated:
        """The `k` variables with the largest correlation of those named `index`; those below 0 are none."""
        spread = (self.n * self.z2 - self.z.square()) * (self.n * self.y2 - self.y.square())
        pearson = (self.n * self.zy - self.z * self.y) / spread.clamp_min(0).sqrt()
        cosine = self.zy / (self.z2 * self.y2).sqrt()
        valid = (index >= 0) & pearson.isfinite()
        top = pearson.masked_fill(~valid, -torch.inf).topk(min(k, index.shape[1]), dim=1)
        missing = top.values == -torch.inf
        return Correlated(
            index.gather(1, top.indices).masked_fill(missing, -1),
            top.values.float().masked_fill(missing, torch.nan),
            cosine.gather(1, top.indices).float().masked_fill(missing, torch.nan),
        )


def logit_histograms(effects: DirectEffects, W_dec: Float[Tensor, "n_shown d_in"], n_bins: int) -> Histograms:
    """Histograms over the vocabulary of the direct effects of decoder rows on the logits."""
    parts: list[Histograms] = []
    for effect in effects(W_dec):
        least, most = effect.min(1).values.cpu(), effect.max(1).values.cpu()
        part = Histograms.empty(least, most, n_bins)
        row = torch.arange(len(effect)).repeat_interleave(effect.shape[1])
        part.add_(row, ((effect.cpu() - least[:, None]) / (most - least).clamp_min(1e-30)[:, None]).flatten())
        parts.append(part)
    return Histograms(*(torch.cat(part) for part in zip(*parts, strict=True)))

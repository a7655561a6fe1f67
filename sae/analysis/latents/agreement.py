"""The known meaning of each latent: its true feature, or the label that it predicts best.

A latent predicts a property by firing:

    f1 = 2 |A & P| / (|A| + |P|),    precision = |A & P| / |A|,    recall = |A & P| / |P|

with A the samples in which it fires and P those that have the property. The property of each latent is chosen on the
validation split and measured on the test split. True features are matched by direction, not by firing: one to one as in
:mod:`sae.metrics.recovery`, and latents without a partner to the nearest feature by cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.latents.reading import HALVES, Half, Piece
from sae.dictionary import Dictionary
from sae.metric import block_rows
from sae.numerics.matching import Matching
from sae.source import Source, Truth

MIN_COUNT = 10
"""Samples of either class that a property needs in both splits."""
MOST_CELLS = 2**26
"""The most properties times latents that are counted, which bounds the memory."""


class MatchedFeatures(NamedTuple):
    """The true feature of each latent."""

    feature: Int[Tensor, " n_latents"]
    """The number of the feature."""
    cosine: Float[Tensor, " n_latents"]
    """The cosine between the decoder row and the feature's direction."""
    mutual: Bool[Tensor, " n_latents"]
    """Whether the one-to-one assignment pairs the two."""
    f1: Float[Tensor, " n_latents"]
    """F1 of the latent's firing as a prediction that the feature is active."""


class BestProperty(NamedTuple):
    """The property that each latent predicts best, and how well it does on the test split; -1 and NaN if it predicts
    none."""

    names: Sequence[str]
    """The names of all properties."""
    best: Int[Tensor, " n_latents"]
    """The number of each latent's property in `names`."""
    f1: Float[Tensor, " n_latents"]
    """F1 on the test split."""
    precision: Float[Tensor, " n_latents"]
    """Precision on the test split."""
    recall: Float[Tensor, " n_latents"]
    """Recall on the test split."""


class FeatureMatch:
    """Matches latents to true features, and counts the samples in which both are active."""

    def __init__(self, truth: Truth, d: Dictionary) -> None:
        matching = Matching.of(truth.directions, truth.represented, d.W_dec.to(truth.directions))
        nearest, cosine = matching.nearest_feature.partner.clone(), matching.nearest_feature.cosine.clone()
        paired = (matching.latent >= 0).nonzero()[:, 0]
        latent = matching.latent[paired]
        nearest[latent], cosine[latent] = paired, matching.assignment.value[paired]
        self.mutual = torch.zeros(d.n_latents, dtype=torch.bool)
        self.mutual[latent.cpu()] = True
        self.feature, self.cosine = matching.feature[nearest], cosine.cpu()
        self.hits, self.total = torch.zeros(2, d.n_latents, dtype=torch.int64)

    def add(self, piece: Piece, z: Float[Tensor, "batch n_latents"]) -> None:
        """Adds a piece with the true coefficients, and its codes `z`."""
        assert piece.codes is not None
        fires, active = z > 0, (piece.codes > 0)[:, self.feature.to(piece.codes.device)].to(z.device)
        self.hits += (fires & active).sum(0).cpu()
        self.total += (fires.sum(0) + active.sum(0)).cpu()

    def result(self) -> MatchedFeatures:
        """The feature of each latent, with the F1 of the counts so far."""
        return MatchedFeatures(self.feature.cpu(), self.cosine, self.mutual, (2 * self.hits / self.total).float())


@dataclass(eq=False)
class PropertyCounts:
    """Counts of samples in which a property holds and a latent fires, for each split."""

    names: Sequence[str]
    """The names of the properties."""
    n_latents: int
    """The number of latents."""

    def __post_init__(self) -> None:
        n = len(self.names)
        self.hits = {h: torch.zeros(n, self.n_latents) for h in HALVES}
        self.fires = {h: torch.zeros(self.n_latents, dtype=torch.int64) for h in HALVES}
        self.positive = {h: torch.zeros(n, dtype=torch.int64) for h in HALVES}
        self.rows = dict.fromkeys(HALVES, 0)

    def add(self, half: Half, z: Float[Tensor, "batch n_latents"], has: Bool[Tensor, "batch n_properties"]) -> None:
        """Adds a batch of one split: codes, and which sample has which property."""
        fires, has = (z > 0).cpu(), has.cpu()
        self.hits[half] += has.float().T @ fires.float()
        self.fires[half] += fires.sum(0)
        self.positive[half] += has.sum(0)
        self.rows[half] += len(z)

    def result(self) -> BestProperty:
        """The property of each latent, chosen by F1 on the validation split and measured on the test split."""
        usable = torch.ones(len(self.names), dtype=torch.bool)
        for h in HALVES:
            usable &= torch.minimum(self.positive[h], self.rows[h] - self.positive[h]) >= MIN_COUNT
        chosen = 2 * self.hits["choose"] / (self.fires["choose"] + self.positive["choose"][:, None]).clamp_min(1)
        best = chosen.masked_fill(~usable[:, None], -1).max(0)
        hits = self.hits["test"].gather(0, best.indices[None])[0]
        fires, positive = self.fires["test"], self.positive["test"][best.indices]
        none = best.values <= 0
        scores = (2 * hits / (fires + positive), hits / fires, hits / positive)
        f1, precision, recall = (score.masked_fill(none, torch.nan) for score in scores)
        return BestProperty(self.names, best.indices.masked_fill(none, -1), f1, precision, recall)


def best_labels(d: Dictionary, source: Source) -> BestProperty | None:
    """The label of a source that each latent predicts best; None if the source has no labels, or too many."""
    halves = source.labelled()
    if halves is None:
        return None
    classes = [(name, value) for name in halves[0].labels for value in _classes(halves[0].labels[name])]
    if not classes or len(classes) * d.n_latents > MOST_CELLS:
        return None
    counts = PropertyCounts([name if value is None else f"{name} = {value}" for name, value in classes], d.n_latents)
    for half, batch in zip(HALVES, halves, strict=True):
        has = torch.stack([batch.labels[name] == (1 if value is None else value) for name, value in classes], dim=1)
        size = block_rows(d.n_latents)
        for acts, marks in zip(batch.acts.split(size), has.split(size), strict=True):
            with torch.no_grad():
                counts.add(half, d.encode(acts), marks)
    return counts.result()


def _classes(label: Tensor) -> list[int | None]:
    """The classes of a label; only None for a binary label."""
    values = label.unique().tolist()
    return [None] if set(values) <= {0, 1} else values

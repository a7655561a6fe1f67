"""What each latent stands for, where that is known: its true feature, or the label that it tells best.

A latent's prediction is that it fires, and

    f1 = 2 |A & P| / (|A| + |P|),    precision = |A & P| / |A|,    recall = |A & P| / |P|

with A the rows where it fires and P those that have the property. The property of each latent is chosen on one half
of the rows and measured on the other. True features are matched by direction, not by firing: one to one as in
:mod:`sae.metrics.recovery`, and the nearest by cosine for latents that are left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.latents.reading import HALVES, Half, Piece
from sae.dictionary import Dictionary
from sae.numerics.matching import Matching, cosines
from sae.source import Batch, Source, Truth

MIN_COUNT = 10
"""Rows of either class that a property needs in both halves."""
MOST_CELLS = 2**26
"""Properties times latents, at most: the memory of the counts."""
_ROWS_AT_ONCE = 4096


class Matched(NamedTuple):
    """The true feature of each latent; `mutual` where the assignment pairs the two."""

    feature: Int[Tensor, " n_latents"]
    cosine: Float[Tensor, " n_latents"]
    mutual: Bool[Tensor, " n_latents"]
    f1: Float[Tensor, " n_latents"]


class Told(NamedTuple):
    """The property that each latent tells best, and how well on rows that it was not chosen on; -1 and NaN where it
    tells none."""

    names: Sequence[str]
    best: Int[Tensor, " n_latents"]
    f1: Float[Tensor, " n_latents"]
    precision: Float[Tensor, " n_latents"]
    recall: Float[Tensor, " n_latents"]


class FeatureMatch:
    """Matches features to latents, and counts where both are active, a piece at a time."""

    def __init__(self, truth: Truth, d: Dictionary) -> None:
        feature = truth.represented.nonzero()[:, 0]
        matching = Matching(feature, cosines(truth.directions[feature], d.W_dec.to(truth.directions)))
        nearest = matching.cosine.argmax(0)
        self.mutual = torch.zeros(d.n_latents, dtype=torch.bool)
        if matching.latent is not None:
            paired = (matching.latent >= 0).nonzero()[:, 0]
            nearest[matching.latent[paired]] = paired
            self.mutual[matching.latent[paired].cpu()] = True
        self.feature = feature[nearest]
        self.cosine = matching.cosine.gather(0, nearest[None])[0].cpu()
        self.hits, self.total = torch.zeros(2, d.n_latents, dtype=torch.int64)

    def add(self, piece: Piece, z: Float[Tensor, "batch n_latents"]) -> None:
        assert piece.codes is not None
        fires, active = z > 0, (piece.codes > 0)[:, self.feature.to(piece.codes.device)].to(z.device)
        self.hits += (fires & active).sum(0).cpu()
        self.total += (fires.sum(0) + active.sum(0)).cpu()

    def result(self) -> Matched:
        return Matched(self.feature.cpu(), self.cosine, self.mutual, (2 * self.hits / self.total).float())


@dataclass(eq=False)
class Telling:
    """Counts of properties against latents, one half of the rows beside the other."""

    names: Sequence[str]
    n_latents: int

    def __post_init__(self) -> None:
        n = len(self.names)
        self.hits = {h: torch.zeros(n, self.n_latents) for h in HALVES}
        self.fires = {h: torch.zeros(self.n_latents, dtype=torch.int64) for h in HALVES}
        self.positive = {h: torch.zeros(n, dtype=torch.int64) for h in HALVES}
        self.rows = dict.fromkeys(HALVES, 0)

    def add(self, half: Half, z: Float[Tensor, "batch n_latents"], has: Bool[Tensor, "batch n_properties"]) -> None:
        fires, has = (z > 0).cpu(), has.cpu()
        self.hits[half] += has.float().T @ fires.float()
        self.fires[half] += fires.sum(0)
        self.positive[half] += has.sum(0)
        self.rows[half] += len(z)

    def result(self) -> Told:
        """Chosen by f1 on one half, measured on the other."""
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
        return Told(self.names, best.indices.masked_fill(none, -1), f1, precision, recall)


def of_labels(d: Dictionary, source: Source) -> Told | None:
    """What latents tell of a source's labels; None where it has none."""
    halves = source.labelled()
    if halves is None:
        return None
    classes = [(name, value) for name in halves[0].labels for value in _classes(halves[0].labels[name])]
    telling = Telling([name if value is None else f"{name} = {value}" for name, value in classes], d.n_latents)
    if not classes or len(classes) * d.n_latents > MOST_CELLS:
        return None
    for half, batch in zip(HALVES, halves, strict=True):
        has = torch.stack([batch.labels[name] == (1 if value is None else value) for name, value in classes], dim=1)
        for acts, marks in _parts(batch, has):
            with torch.no_grad():
                telling.add(half, d.encode(acts), marks)
    return telling.result()


def _classes(label: Tensor) -> list[int | None]:
    """The classes of a label, None alone for one that is 0 or 1."""
    found = label.unique().tolist()
    return [None] if set(found) <= {0, 1} else found


def _parts(batch: Batch, has: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(batch.acts.split(_ROWS_AT_ONCE), has.split(_ROWS_AT_ONCE), strict=True)

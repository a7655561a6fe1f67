"""Scores next to costs: which methods no other beats at a lower cost, as points and as a CSV file.

A method is on the front of a score and a cost if no other costs no more and is at least as good, one of the two
strictly. Means over data sets decide, so neighbours on a front whose intervals overlap may be in the wrong order.
Ceilings, which know the features, are on no front. A method without a cost, or with a cost of zero, is left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.bench.comparison import SECOND_SCORE, Comparison
from pipelines.bench.families import Entry
from sae.numerics.statistics import Estimate

COSTS = {
    "train_flops": "training FLOPs",
    "encoder_cost": "multiply-adds to encode a sample, as a multiple of one layer of the same width",
}
"""The costs, with what they count."""


class CostedEntry(NamedTuple):
    """A method with its cost and its score."""

    entry: Entry
    """The method, at its chosen penalty."""
    cost: float
    """Mean cost of one dictionary."""
    score: Estimate
    """Mean over data sets with its interval."""
    on_front: bool
    """Whether no other method beats it at no higher cost."""


def costed_entries(c: Comparison, score: str, cost: str) -> list[CostedEntry]:
    """The methods that have both, the cheapest first, without ceilings."""
    having = [e for e in _fair(c, score) if _cost(e, cost) > 0]
    having = sorted(having, key=lambda e: (_cost(e, cost), -e.goodness(score)))

    def is_beaten(e: Entry) -> bool:
        own = -_cost(e, cost), e.goodness(score)
        others = ((-_cost(other, cost), other.goodness(score)) for other in having)
        return any(a >= own[0] and b >= own[1] and (a, b) != own for a, b in others)

    return [CostedEntry(e, _cost(e, cost), e.estimate(score), not is_beaten(e)) for e in having]


def without_cost(c: Comparison, cost: str) -> list[Entry]:
    """The methods whose cost is zero or unknown, without ceilings."""
    return [e for e in _fair(c, c.by) if not _cost(e, cost) > 0]


def compared_scores(c: Comparison) -> list[str]:
    """The scores that are shown next to costs: that which ranks the methods, and F1."""
    return list(dict.fromkeys((c.by, SECOND_SCORE)))


def write_frontier(comparisons: Sequence[Comparison], path: Path) -> None:
    """Writes one line per source, score, cost and method that has both; numbers are those of ``table.csv``."""
    about = ["source", "score", "cost", "method", "encoder", "n_latents", "read_at"]
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow([*about, "cost_value", "mean", "low", "high", "n", "on_front"])
        for c in comparisons:
            for score, cost in ((score, cost) for score in compared_scores(c) for cost in COSTS):
                for one in costed_entries(c, score, cost):
                    s, e = one.entry.family.first, one.score
                    names = [c.source, score, cost, s.method, s.encoder, s.n_latents or "", one.entry.where]
                    ends = ["" if math.isnan(end) else repr(end) for end in (e.low, e.high)]
                    out.writerow([*names, repr(one.cost), repr(e.mean), *ends, e.n, "yes" if one.on_front else "no"])


def _fair(c: Comparison, score: str) -> list[Entry]:
    """The methods that have the score and for which it is no ceiling."""
    having = (e for e in c.entries if math.isfinite(e.estimate(score).mean))
    return [e for e in having if not e.family.first.is_ceiling(score)]


def _cost(e: Entry, cost: str) -> float:
    """The mean cost, without the rounding by which means of equal numbers differ; NaN if it is unknown."""
    return float(f"{e.estimate(cost).mean:.9g}")

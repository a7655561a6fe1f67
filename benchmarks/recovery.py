"""Whole runs of one trainer over several seeds, in one process, each scored on rows that nobody trained on.

A seed is of the data (directions and rows) and of the initial values. All trainers see the same batches of a seed in
the same order, in units of ``E||x|| = sqrt(d_in)``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from benchmarks.lines import note
from benchmarks.pool import scaled
from benchmarks.trainers import Course, Setting, library_of
from sae.dictionary import Dictionary
from sae.kinds import config_class
from sae.score import score
from sae.toy import ToyConfig

HELD_OUT = 20_000
SCORES = ("l0", "fvu", "mcc", "mmcs_truth", "f1", "f1_macro", "dead")
NEAR = 0.02
FARTHEST = 8.0


@dataclass(frozen=True)
class Rows:
    """The data of a seed."""

    batches: list[Tensor]
    held_out: Tensor
    codes: Tensor
    features: Tensor

    @classmethod
    def draw(cls, source: Mapping[str, Any], seed: int, batch: int, n_batches: int) -> Rows:
        config = config_class("sae.sources", source["kind"])(**{**source, "seed": seed})
        assert isinstance(config, ToyConfig)
        drawn = config.build()
        assert drawn.truth is not None
        held_out = drawn.batch(0, HELD_OUT, "test")
        assert held_out.codes is not None
        batches = [drawn.batch(step, batch).acts for step in range(n_batches)]
        *batches, rows = scaled([*batches, held_out.acts], "cpu")
        return cls(batches, rows, held_out.codes, drawn.truth.directions)

    def scores(self, d: Dictionary) -> dict[str, float]:
        found = score(d, self.held_out, features=self.features, codes=self.codes)
        return {name: found[name] for name in SCORES}


def measure(
    library: str,
    kind: str,
    source: Mapping[str, Any],
    setting: Mapping[str, Any],
    course: Mapping[str, Any],
    seeds: Sequence[int],
    n_batches: int,
    rounds: int,
) -> dict[str, Any]:
    """The scores and seconds of a run for each seed. Where the sparsity hangs on a penalty's weight, that is searched
    for with the first seed, in at most so many `rounds`, and the nearest is taken for all; `tried` tells of them."""
    module, it, way = library_of(library), Setting(**setting), Course(**course)
    rows = Rows.draw(source, seeds[0], it.batch, n_batches)
    # Imports and compiled kernels, before any clock runs.
    narrow = [x[:64, :8].contiguous() for x in rows.batches[:2]]
    few = Setting(8, 16, 64, 2, levels=(8, 16))
    module.learn(kind, few, replace(way, steps=40), narrow)

    def once(seed: int, weight: float) -> dict[str, float]:
        begin = time.perf_counter()
        d = module.learn(kind, replace(it, seed=seed, l1=weight), way, rows.batches)
        return {"seconds": time.perf_counter() - begin, **rows.scores(d)}

    tried: dict[float, dict[str, float]] = {}
    weight = module.WEIGHED.get(kind)
    while weight is not None and weight not in tried and len(tried) < rounds:
        tried[weight] = once(seeds[0], weight)
        note(f"    {library}-{kind}: weight {weight:.4g}, l0 {tried[weight]['l0']:.3f}")
        weight = next_weight({w: run["l0"] / it.l0 for w, run in tried.items()})
    best = min(tried, key=lambda w: distance(tried[w]["l0"] / it.l0), default=1.0)
    runs = [tried[best] if tried else once(seeds[0], best)]
    for seed in seeds[1:]:
        rows = Rows.draw(source, seed, it.batch, n_batches)
        runs.append(once(seed, best))
    return {"runs": runs, "weight": best if tried else None, "tried": [[w, run["l0"]] for w, run in tried.items()]}


def distance(excess: float) -> float:
    """How far an L0, in units of the target, is from one; in logarithms."""
    return abs(math.log(max(excess, 1e-3)))


def next_weight(seen: Mapping[float, float]) -> float | None:
    """The weight to try after those that led to so many times the target; None when one is near enough.

    Between the nearest weights on either side, the straight line in logarithms; beyond all of them, a step by the ratio
    to the power 1.5.
    """
    nearest = min(seen, key=lambda w: distance(seen[w]))
    if distance(seen[nearest]) < NEAR:
        return None
    above = max((w for w in seen if seen[w] > 1), default=None)
    below = min((w for w in seen if seen[w] <= 1), default=None)
    if above is None or below is None or above > below:
        return nearest * min(max(seen[nearest] ** 1.5, 1 / FARTHEST), FARTHEST)
    high, low = math.log(seen[above]), math.log(max(seen[below], 1e-3))
    share = min(max(high / (high - low), 0.1), 0.9)
    return above ** (1 - share) * below**share

"""Whole runs of one trainer over several seeds, in one process, each scored on rows that nobody trained on.

A seed is of the data (directions and rows) and of the initial values. All trainers see the same batches of a seed in
the same order, in units of ``E||x|| = sqrt(d_in)``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from benchmarks.lines import note
from benchmarks.pool import scaled
from benchmarks.trainers import Course, Setting, library_of
from sae.dictionary import Dictionary
from sae.registry import config_class
from sae.scoring import score
from sae.toys.base import ToyConfig

HELD_OUT = 10_000
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

    def l0(self, d: Dictionary) -> float:
        return float((d.encode(self.held_out) != 0).sum(-1).double().mean())

    def scores(self, d: Dictionary) -> dict[str, float]:
        found = score(d, self.held_out, features=self.features, codes=self.codes)
        return {name: found[name] for name in SCORES}


def measure(
    library: str,
    kind: str,
    source: Mapping[str, Any],
    setting: Mapping[str, Any],
    courses: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    n_batches: int,
    rounds: int,
) -> dict[str, Any]:
    """For each of the `courses`, the scores and seconds of a run for each seed. Where the sparsity hangs on a penalty's
    weight, that is searched for with the first seed, in at most so many `rounds` (a later course begins where the
    one before it ended), and the nearest is taken for all; `tried` tells of them."""
    module, it = library_of(library), Setting(**setting)
    data = {seed: Rows.draw(source, seed, it.batch, n_batches) for seed in seeds}
    weight: float | None = module.WEIGHED.get(kind)
    found: dict[str, Any] = {}
    for name, course in courses.items():
        way = Course(**course)
        # Imports and compiled kernels, before any clock runs.
        narrow = [x[:64, :8].contiguous() for x in data[seeds[0]].batches[:2]]
        module.learn(kind, Setting(8, 16, len(narrow[0]), 2, levels=(8, 16)), replace(way, steps=40), narrow)

        def trained(seed: int, weight: float | None, way: Course = way) -> tuple[Dictionary, float]:
            begin = time.perf_counter()
            own = replace(it, seed=seed, l1=it.l1 if weight is None else weight)
            return module.learn(kind, own, way, data[seed].batches), time.perf_counter() - begin

        first, tried = None, list[tuple[float, float]]()
        if weight is not None:
            first, tried = search(lambda weight: trained(seeds[0], weight), data[seeds[0]], it.l0, weight, rounds)
            weight = min(tried, key=lambda pair: distance(pair[1] / it.l0))[0]
            note(f"    {library}-{kind}, {name}: " + ", ".join(f"weight {w:.4g} l0 {l0:.3f}" for w, l0 in tried))
        runs: list[dict[str, float]] = []
        for seed in seeds:
            d, seconds = first if first is not None and seed == seeds[0] else trained(seed, weight)
            runs.append({"seconds": seconds, **data[seed].scores(d)})
        found[name] = {"runs": runs, "weight": weight, "tried": tried}
    return found


Trained = tuple[Dictionary, float]


def search(
    trained: Callable[[float], Trained], rows: Rows, l0: int, weight: float, rounds: int
) -> tuple[Trained, list[tuple[float, float]]]:
    """The run whose L0 on held-out rows is nearest to `l0`, and every weight that was tried with its L0."""
    tried: dict[float, float] = {}
    kept: dict[float, Trained] = {}
    coming: float | None = weight
    while coming is not None and coming not in tried and len(tried) < rounds:
        kept[coming] = trained(coming)
        tried[coming] = rows.l0(kept[coming][0])
        coming = next_weight({w: found / l0 for w, found in tried.items()})
    return kept[min(tried, key=lambda w: distance(tried[w] / l0))], list(tried.items())


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
        end = max(seen) if below is None else min(seen) if above is None else nearest
        return end * min(max(seen[end] ** 1.5, 1 / FARTHEST), FARTHEST)
    high, low = math.log(seen[above]), math.log(max(seen[below], 1e-3))
    share = min(max(high / (high - low), 0.1), 0.9)
    return above ** (1 - share) * below**share

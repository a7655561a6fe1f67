"""Whole runs of one trainer over several seeds, in one process, each scored on held-out samples.

A seed determines the data (directions and samples) and the initial values. For each seed, all trainers see the same
batches in the same order, scaled to ``E||x|| = sqrt(d_in)``.
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
from benchmarks.trainers import Schedule, Setting, library_of
from sae.dictionary import Dictionary
from sae.registry import config_class
from sae.scoring import score
from sae.toys.base import ToyConfig

TimedRun = tuple[Dictionary, float]
"""A trained dictionary, and the seconds that training took."""

HELD_OUT = 10_000
SCORES = ("l0", "fvu", "mcc", "mmcs_truth", "f1", "f1_macro", "dead")
NEAR = 0.02
"""The search for a weight ends at an L0 this near to the target, in units of log L0."""
MOST_CHANGE = 8.0
"""Largest factor between one weight and the next in the search."""


@dataclass(frozen=True)
class SeedData:
    """The data of one seed."""

    batches: list[Tensor]
    """Training batches."""
    held_out: Tensor
    """Held-out samples, [n, d_in]."""
    codes: Tensor
    """True codes of the held-out samples, [n, n_features]."""
    features: Tensor
    """True directions, [n_features, d_in]."""

    @classmethod
    def draw(cls, source: Mapping[str, Any], seed: int, batch: int, n_batches: int) -> SeedData:
        """Draws the data of a seed from the settings of a source."""
        config = config_class("sources", source["kind"])(**{**source, "seed": seed})
        assert isinstance(config, ToyConfig)
        toy = config.build()
        assert toy.truth is not None
        held_out = toy.batch(0, HELD_OUT, "test")
        assert held_out.codes is not None
        batches = [toy.batch(step, batch).acts for step in range(n_batches)]
        *batches, samples = scaled([*batches, held_out.acts], "cpu")
        return cls(batches, samples, held_out.codes, toy.truth.directions)

    def l0(self, d: Dictionary) -> float:
        """Mean number of active latents per held-out sample."""
        return float((d.encode(self.held_out) != 0).sum(-1).double().mean())

    def scores(self, d: Dictionary) -> dict[str, float]:
        """The `SCORES` of a dictionary on the held-out samples."""
        every = score(d, self.held_out, features=self.features, codes=self.codes)
        return {name: every[name] for name in SCORES}


def measure(
    library: str,
    kind: str,
    source: Mapping[str, Any],
    setting: Mapping[str, Any],
    schedules: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    n_batches: int,
    rounds: int,
) -> dict[str, Any]:
    """For each schedule, the scores and seconds of a run for each seed.

    If the sparsity depends on the weight of a penalty, the weight is searched for with the first seed, in at most
    `rounds` runs, and the one with the nearest L0 is used for all seeds. Each schedule starts its search at the weight
    found for the schedule before it. `tried` holds every weight with its L0.
    """
    module, common = library_of(library), Setting(**setting)
    data = {seed: SeedData.draw(source, seed, common.batch, n_batches) for seed in seeds}
    weight: float | None = module.PENALTY_WEIGHTS.get(kind)
    results: dict[str, Any] = {}
    for name, settings in schedules.items():
        schedule = Schedule(**settings)
        # A tiny run first, so that imports and the compilation of kernels are not timed.
        narrow = [x[:64, :8].contiguous() for x in data[seeds[0]].batches[:2]]
        tiny = Setting(8, 16, len(narrow[0]), 2, levels=(8, 16))
        module.fit_dictionary(kind, tiny, replace(schedule, steps=40), narrow)

        def trained(seed: int, weight: float | None, schedule: Schedule = schedule) -> TimedRun:
            begin = time.perf_counter()
            one = replace(common, seed=seed, l1=common.l1 if weight is None else weight)
            return module.fit_dictionary(kind, one, schedule, data[seed].batches), time.perf_counter() - begin

        first, tried = None, list[tuple[float, float]]()
        if weight is not None:
            first, tried = search(lambda weight: trained(seeds[0], weight), data[seeds[0]], common.l0, weight, rounds)
            weight = min(tried, key=lambda pair: distance(pair[1] / common.l0))[0]
            note(f"    {library}-{kind}, {name}: " + ", ".join(f"weight {w:.4g} l0 {l0:.3f}" for w, l0 in tried))
        runs: list[dict[str, float]] = []
        for seed in seeds:
            d, seconds = first if first is not None and seed == seeds[0] else trained(seed, weight)
            runs.append({"seconds": seconds, **data[seed].scores(d)})
        results[name] = {"runs": runs, "weight": weight, "tried": tried}
    return results


def search(
    trained: Callable[[float], TimedRun], data: SeedData, l0: int, weight: float, rounds: int
) -> tuple[TimedRun, list[tuple[float, float]]]:
    """The run whose L0 on held-out samples is nearest to `l0`, and every weight that was tried with its L0."""
    tried: dict[float, float] = {}
    runs: dict[float, TimedRun] = {}
    candidate: float | None = weight
    while candidate is not None and candidate not in tried and len(tried) < rounds:
        runs[candidate] = trained(candidate)
        tried[candidate] = data.l0(runs[candidate][0])
        candidate = next_weight({w: measured / l0 for w, measured in tried.items()})
    return runs[min(tried, key=lambda w: distance(tried[w] / l0))], list(tried.items())


def distance(excess: float) -> float:
    """The absolute logarithm of an L0 in units of its target."""
    return abs(math.log(max(excess, 1e-3)))


def next_weight(seen: Mapping[float, float]) -> float | None:
    """The next weight to try, given the ratio of L0 to the target for each weight so far; None if one is near enough.

    Between the nearest weights on either side of the target, by linear interpolation in logarithms; outside of them, a
    step by the ratio to the power 1.5.
    """
    nearest = min(seen, key=lambda w: distance(seen[w]))
    if distance(seen[nearest]) < NEAR:
        return None
    above = max((w for w in seen if seen[w] > 1), default=None)
    below = min((w for w in seen if seen[w] <= 1), default=None)
    if above is None or below is None or above > below:
        end = max(seen) if below is None else min(seen) if above is None else nearest
        return end * min(max(seen[end] ** 1.5, 1 / MOST_CHANGE), MOST_CHANGE)
    high, low = math.log(seen[above]), math.log(max(seen[below], 1e-3))
    share = min(max(high / (high - low), 0.1), 0.9)
    return above ** (1 - share) * below**share

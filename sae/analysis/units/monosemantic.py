"""Monosemantic units: the share of units whose strongest examples agree on one class.

    share = |{u : some class holds at least m of the k samples on which u is largest}| / |{u : u has k such samples}|

with k = 10 and m = 9, for units of any kind: neurons, latents, random directions. A class is a given label, or the
token at the position, the one after it or the one before it. No two examples of a unit come from one row of tokens,
since neighbours in a text agree anyway; only values above zero are examples. The question is that of Elhage et al.
2022, 'Softmax Linear Units', whose human raters judged ten examples of each neuron (35% monosemantic with GELU, 60%
with SoLU). Here no human judges. A unit whose examples share a meaning but no token is not counted, so the share is a
lower bound: it compares kinds of units, and does not say how many are monosemantic.

If a sample may have several labels, the examples of a unit that mixes features have all of these features active, and
agree on each: `alone` is the share of units whose examples agree on exactly one label.

The control permutes all labels and tokens together over the samples: the share of units whose examples would agree by
chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.units.neurons import MONOSEMANTIC
from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval, of_draws, of_share

ANY = "any of them"
"""The name under which the agreement on any class is returned."""


class TopExamples:
    """The `k` samples on which each unit is largest, no two of one group, from a stream of batches.

    Memory is one batch and ``3 k n_units`` numbers, however many samples there are.
    """

    def __init__(self, k: int, n_units: int, device: str | torch.device = "cpu") -> None:
        self.k = k
        self.values = torch.full((k, n_units), -math.inf, device=device)
        self.rows = torch.full((k, n_units), NOTHING, device=device)
        self._groups = torch.full((k, n_units), NOTHING, device=device)

    def add(
        self, x: Float[Tensor, "batch n_units"], rows: Int[Tensor, " batch"], groups: Int[Tensor, " batch"]
    ) -> None:
        """Adds the values of all units on a batch of samples, with the samples' numbers and groups (rows of tokens)."""
        distinct, group = groups.to(x.device).unique(return_inverse=True)
        where = group[:, None].expand_as(x)
        best = x.new_full((len(distinct), x.shape[1]), -math.inf).scatter_reduce(0, where, x, "amax")
        # Of equal values in one group the first sample counts.
        at = torch.arange(len(x), device=x.device)[:, None].expand_as(x).masked_fill(x != best[group], len(x))
        first = at.new_full(best.shape, len(x)).scatter_reduce(0, where, at, "amin")
        top, which = best.topk(min(self.k, len(distinct)), dim=0)
        # A group whose largest value is NaN has no matching sample; the clamp keeps its index valid.
        sample = first.gather(0, which).clamp(max=len(x) - 1)
        self._merge(top.float(), rows.to(x.device)[sample], distinct[which])

    def _merge(self, values: Tensor, rows: Tensor, groups: Tensor) -> None:
        """Merges new candidates into the best so far. A group that occurs twice keeps its largest value."""
        values, rows, groups = (
            torch.cat([old, new]) for old, new in ((self.values, values), (self.rows, rows), (self._groups, groups))
        )
        order = values.argsort(dim=0, descending=True, stable=True)
        values, rows, groups = (part.gather(0, order) for part in (values, rows, groups))
        later = torch.tril(torch.ones(len(values), len(values), dtype=torch.bool, device=values.device), -1)[..., None]
        repeated = ((groups[:, None] == groups[None]) & later).any(1)
        values = values.masked_fill(repeated, -math.inf)
        order = values.argsort(dim=0, descending=True, stable=True)[: self.k]
        self.values, self.rows, self._groups = (part.gather(0, order) for part in (values, rows, groups))

    @property
    def complete(self) -> Bool[Tensor, " n_units"]:
        """Which units have `k` examples with a value above zero."""
        return (self.values > 0).all(0)


@dataclass(frozen=True, eq=False)
class UnitAgreement:
    """How many units have examples that agree."""

    share: Interval
    """The share of units whose examples agree, with Wilson's interval."""
    chance: Interval
    """The share with permuted classes, with the interval of its draws."""
    n_units: int
    """The number of units with `k` examples."""
    n_rare: int
    """The number of units with fewer examples, which are not counted."""
    largest: Int[Tensor, " n_units"]
    """For each counted unit, the number of its examples in their most frequent class."""
    alone: Interval | None = None
    """The share of units whose examples agree on exactly one label; None unless samples may have several labels."""


def monosemantic_units(
    top: TopExamples, known: Mapping[str, Tensor], at_least: float = MONOSEMANTIC, shuffles: int = 20, seed: int = 0
) -> dict[str, UnitAgreement]:
    """For each entry of `known`, and for any of them (`ANY`), the units of which a share `at_least` of examples agrees.

    An entry is a vector of classes ``[samples]`` (:data:`~sae.model.token_rows.NOTHING` agrees with nothing), or a mask
    ``[samples, n_labels]`` of labels that may overlap. Samples are indexed by the numbers that were given to `top`.
    """
    rows, needed = top.rows[:, top.complete], math.ceil(at_least * top.k - 1e-9)
    largest = {name: _largest(classes, rows) for name, classes in known.items()}
    draw = generator("monosemantic", seed)
    shuffled: list[dict[str, Tensor]] = []
    for _ in range(shuffles):
        order = torch.randperm(len(next(iter(known.values()))), generator=draw).to(rows.device)
        shuffled.append({name: _largest(classes, order[rows]) for name, classes in known.items()})
    if len(known) > 1:
        for counts in (largest, *shuffled):
            counts[ANY] = torch.stack(list(counts.values())).amax(0)
    n, n_rare = rows.shape[1], int((~top.complete).sum())

    def agreeing(counts: Tensor) -> int:
        return int((counts >= needed).sum())

    def alone(name: str) -> Interval | None:
        if name not in known or known[name].ndim == 1:
            return None
        agreed = (_marked(known[name], rows) >= needed).sum(1)
        return of_share(int((agreed == 1).sum()), n)

    return {
        name: UnitAgreement(
            of_share(agreeing(counts), n),
            of_draws([agreeing(other[name]) / n for other in shuffled] if n else []),
            n,
            n_rare,
            counts,
            alone(name),
        )
        for name, counts in largest.items()
    }


def _largest(known: Tensor, rows: Int[Tensor, "k n_units"]) -> Int[Tensor, " n_units"]:
    """The number of examples of each unit in their most frequent class."""
    if known.ndim == 2:
        return _marked(known, rows).amax(1)
    classes = known.to(rows.device)[rows]
    same = (classes[:, None] == classes[None]) & (classes != NOTHING)
    return same.sum(0).amax(0)


def _marked(marks: Bool[Tensor, "rows n_labels"], rows: Int[Tensor, "k n_units"]) -> Int[Tensor, "n_units n_labels"]:
    """The number of examples of each unit with each label, summed over one example at a time to bound memory."""
    marks = marks.to(rows.device)
    total = torch.zeros(rows.shape[1], marks.shape[1], dtype=torch.int64, device=rows.device)
    for row in rows:
        total += marks[row]
    return total

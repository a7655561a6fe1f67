"""Which units mean one thing: the examples that drive a unit most, and whether they agree.

    share = |{u : some class holds at least m of the k rows on which u is largest}| / |{u : u has k such rows}|

with k = 10 and m = 9, for units of any kind: neurons, latents, random directions. A class is a given label, or the
token at the row, the one after it or the one before it. No two examples of a unit come from one row of tokens, since
neighbours in a text agree anyway; only values above zero are examples. The question, and people's answers to it on ten
examples, are those of Elhage et al. 2022, 'Softmax Linear Units' (35% of neurons with GELU, 60% with SoLU by their
raters). Where we differ: nobody reads. A unit whose examples share a meaning but no token is not counted, so this is a
lower bound, and compares kinds of units rather than telling how many mean something.

Where rows may have several labels at once, a unit that mixes features has examples in which all of those are active,
and they agree on each: `alone` is the share of units whose examples agree on one label and on no other.

The control permutes what is known of the rows, all of it alike: how many units would agree if their examples had been
drawn by chance.
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


class TopExamples:
    """The `k` rows on which each unit is largest, no two of one group, from batches that are added in turn.

    Memory is that of one batch and ``3 k n_units``, however many rows there are.
    """

    def __init__(self, k: int, n_units: int, device: str | torch.device = "cpu") -> None:
        self.k = k
        self.values = torch.full((k, n_units), -math.inf, device=device)
        self.rows = torch.full((k, n_units), NOTHING, device=device)
        self._groups = torch.full((k, n_units), NOTHING, device=device)

    def add(
        self, x: Float[Tensor, "batch n_units"], rows: Int[Tensor, " batch"], groups: Int[Tensor, " batch"]
    ) -> None:
        """Takes in the values of all units on some rows, whose numbers and groups (rows of tokens) are given."""
        own, of = groups.to(x.device).unique(return_inverse=True)
        where = of[:, None].expand_as(x)
        best = x.new_full((len(own), x.shape[1]), -math.inf).scatter_reduce(0, where, x, "amax")
        # Of equal values in one group the first row counts.
        at = torch.arange(len(x), device=x.device)[:, None].expand_as(x).masked_fill(x != best[of], len(x))
        first = at.new_full(best.shape, len(x)).scatter_reduce(0, where, at, "amin")
        top, which = best.topk(min(self.k, len(own)), dim=0)
        # NaN is nobody's largest value; it has no row.
        found = first.gather(0, which).clamp(max=len(x) - 1)
        self._merge(top.float(), rows.to(x.device)[found], own[which])

    def _merge(self, values: Tensor, rows: Tensor, groups: Tensor) -> None:
        """The best of those so far and the new ones. A group that was seen before keeps its largest value."""
        values, rows, groups = (
            torch.cat([old, new]) for old, new in ((self.values, values), (self.rows, rows), (self._groups, groups))
        )
        order = values.argsort(dim=0, descending=True, stable=True)
        values, rows, groups = (part.gather(0, order) for part in (values, rows, groups))
        again = torch.tril(torch.ones(len(values), len(values), dtype=torch.bool, device=values.device), -1)[..., None]
        doubled = ((groups[:, None] == groups[None]) & again).any(1)
        values = values.masked_fill(doubled, -math.inf)
        order = values.argsort(dim=0, descending=True, stable=True)[: self.k]
        self.values, self.rows, self._groups = (part.gather(0, order) for part in (values, rows, groups))

    @property
    def complete(self) -> Bool[Tensor, " n_units"]:
        """Which units have `k` examples with a value above zero."""
        return (self.values > 0).all(0)


@dataclass(frozen=True, eq=False)
class UnitAgreement:
    """The share of units whose examples agree, with Wilson's interval over units; `chance` is the share when what is
    known of the rows is permuted, with the interval of its draws; `alone` is None but for marks. `largest` holds of
    each unit how many of its examples are of one class; units without enough examples are `n_rare`, and not counted.
    """

    share: Interval
    chance: Interval
    n_units: int
    n_rare: int
    largest: Int[Tensor, " n_units"]
    alone: Interval | None = None


def monosemantic_units(
    top: TopExamples, known: Mapping[str, Tensor], at_least: float = MONOSEMANTIC, shuffles: int = 20, seed: int = 0
) -> dict[str, UnitAgreement]:
    """For each thing known of the rows, and for any of them, the units that agree on it in a share `at_least`.

    What is known is a vector of classes ``[rows]`` (:data:`~sae.model.token_rows.NOTHING` agrees with nothing), or
    marks
    ``[rows, n_labels]``, of which a row may have several. Rows are those whose numbers were given to `top`.
    """
    rows, wanted = top.rows[:, top.complete], math.ceil(at_least * top.k - 1e-9)
    largest = {name: _largest(classes, rows) for name, classes in known.items()}
    draw = generator("monosemantic", seed)
    shuffled: list[dict[str, Tensor]] = []
    for _ in range(shuffles):
        order = torch.randperm(len(next(iter(known.values()))), generator=draw).to(rows.device)
        shuffled.append({name: _largest(classes, order[rows]) for name, classes in known.items()})
    if len(known) > 1:
        for found in (largest, *shuffled):
            found[ANY] = torch.stack(list(found.values())).amax(0)
    n, n_rare = rows.shape[1], int((~top.complete).sum())

    def agreeing(found: Tensor) -> int:
        return int((found >= wanted).sum())

    def alone(name: str) -> Interval | None:
        if name not in known or known[name].ndim == 1:
            return None
        agreed = (_marked(known[name], rows) >= wanted).sum(1)
        return of_share(int((agreed == 1).sum()), n)

    return {
        name: UnitAgreement(
            of_share(agreeing(found), n),
            of_draws([agreeing(other[name]) / n for other in shuffled] if n else []),
            n,
            n_rare,
            found,
            alone(name),
        )
        for name, found in largest.items()
    }


def _largest(known: Tensor, rows: Int[Tensor, "k n_units"]) -> Int[Tensor, " n_units"]:
    """How many examples of each unit the class has that has most of them."""
    if known.ndim == 2:
        return _marked(known, rows).amax(1)
    of = known.to(rows.device)[rows]
    alike = (of[:, None] == of[None]) & (of != NOTHING)
    return alike.sum(0).amax(0)


def _marked(marks: Bool[Tensor, "rows n_labels"], rows: Int[Tensor, "k n_units"]) -> Int[Tensor, "n_units n_labels"]:
    """How many examples of each unit have each label, one example at a time: labels may be many."""
    marks = marks.to(rows.device)
    total = torch.zeros(rows.shape[1], marks.shape[1], dtype=torch.int64, device=rows.device)
    for row in rows:
        total += marks[row]
    return total

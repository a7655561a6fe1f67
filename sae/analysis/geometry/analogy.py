"""Analogies by differences of vectors: a is to b as c is to d where ``W_b - W_a + W_c`` is nearest to W_d.

Mikolov et al. 2013, 'Linguistic regularities in continuous space word representations': king - man + woman = queen.
It holds exactly where rows are sums of attributes, and by chance where the embedding has no such parts. As there, the
three that are given are left out of the search; often the nearest of all is c itself, so `kept` tells how the test ends
without that help.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.matching import unit
from sae.registry import UserError


class Analogies(NamedTuple):
    """For each analogy ``(a, b, c, d)``: the row that was found, its cosine, how many rows came before d (0: d was
    found), and the same where the given three take part."""

    found: Int[Tensor, " n_analogies"]
    cosine: Float[Tensor, " n_analogies"]
    rank: Int[Tensor, " n_analogies"]
    kept: Int[Tensor, " n_analogies"]

    @property
    def accuracy(self) -> float:
        return float((self.rank == 0).double().mean())


def analogies(rows: Float[Tensor, "n d"], given: Tensor) -> Analogies:
    """Every analogy ``a : b = c : d`` of row numbers, `given` as ``[n_analogies, 4]``.

    Raises ``ValueError`` where a number is no row, or d is one of the given three.
    """
    if given.ndim != 2 or given.shape[1] != 4 or len(given) == 0:
        raise UserError(f"given: shape {list(given.shape)}; give the numbers of a, b, c and d, one analogy a row")
    if int(given.min()) < 0 or int(given.max()) >= len(rows):
        raise UserError(f"given: {int(given.max())} or {int(given.min())} is none of the {len(rows)} rows")
    a, b, c, d = given.unbind(1)
    if bool(((d == a) | (d == b) | (d == c)).any()):
        raise UserError("given: d is one of a, b and c, so that there is nothing to find")
    rows = rows.float()
    cosine = unit(rows[b] - rows[a] + rows[c]) @ unit(rows).T
    others = cosine.scatter(1, given[:, :3], -torch.inf)
    best, found = others.max(1)
    wanted = cosine.gather(1, d[:, None])
    return Analogies(found, best, (others > wanted).sum(1), (cosine > wanted).sum(1))

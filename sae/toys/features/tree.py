"""Features in trees: a child is active only where its parent is, and siblings may exclude one another.

Every feature g has a coin c_g. A child is active where its coin and its parent are; of several siblings whose coins
fall together under `exclusive` one is drawn. With K the number of its siblings whose coins fall,

    P(g | parent) = c_g E[1 / (1 + K)],    E[1 / (1 + K)] = int_0^1 prod_{j != g} (1 - c_j + c_j t) dt,

which is solved for the coins, so that probabilities are those that were asked for and not less (the compensation of
SynthSAEBench, arXiv 2602.14687, where E[1 / (1 + K)] is approximated by 1 / (1 + E K)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.fast_random import uniform
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.toys.features.activity import PROBABILITY, Activity
from sae.toys.features.correlation import AnyCorrelation, normals
from sae.toys.features.series import Listed, PerFeature, probabilities

MAX_ROUNDS = 10_000
TOLERANCE = 1e-9


class Tree(Activity):
    """Either `parents` lists each feature's parent (-1 for none), which comes before it; or `roots` trees of `depth`
    levels below the root, with `branching` children a node, are laid out level by level: all roots, all their
    children, and so on. Features left over stand alone.

    `probability` has a number for each feature, or a list one for each level, and `given` says what of: ``marginal``
    of being active at all; ``conditional`` of being active where the parent is (the same, for a root); ``nearest`` as
    ``marginal``, but a coin that would have to fall more often than always falls always, as in SynthSAEBench, so that
    a feature can be rarer than asked. `correlation` is that of the coins. Under `scaled` a child's magnitude is
    multiplied by its parent's over the parent's mean.
    """

    kind: Literal["tree"] = "tree"
    parents: tuple[int, ...] | None = None
    roots: int | None = Field(None, gt=0)
    branching: int = Field(4, gt=0)
    depth: int = Field(3, gt=0)
    probability: PerFeature
    given: Literal["marginal", "conditional", "nearest"] = "marginal"
    exclusive: bool = False
    scaled: bool = False
    correlation: AnyCorrelation | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Tree:
        if (self.parents is None) == (self.roots is None):
            raise UserError("tree: give either parents, or roots with branching and depth")
        return self

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        parents = self.layout(n_features)
        asked = self.asked(parents, seed)
        coin, probability = self.coins(asked, parents)
        tensors = {"coin": coin.float(), "parents": parents, "siblings": siblings_of(parents)}
        if self.correlation is not None:  # then coins are not independent, and the probabilities no closed form
            return tensors | self.correlation.tensors(n_features, seed)
        return tensors | {"probability": probability.float()}

    def layout(self, n_features: int) -> Int[Tensor, " n_features"]:
        """The parent of each feature, -1 for none."""
        if self.parents is not None:
            if len(self.parents) != n_features:
                raise UserError(f"activity.parents: {len(self.parents)} numbers for n_features = {n_features}")
            for child, parent in enumerate(self.parents):
                if not -1 <= parent < child:
                    raise UserError(
                        f"activity.parents: feature {child} has the parent {parent}; a parent comes before its child"
                    )
            return torch.tensor(self.parents)
        assert self.roots is not None
        n_inner = self.roots * sum(self.branching**level for level in range(self.depth))
        n_nodes = self.roots + n_inner * self.branching
        if n_nodes > n_features:
            raise UserError(f"activity: the trees have {n_nodes} nodes, more than n_features = {n_features}")
        alone = torch.full((self.roots,), -1), torch.full((n_features - n_nodes,), -1)
        return torch.cat([alone[0], torch.arange(n_inner).repeat_interleave(self.branching), alone[1]])

    def asked(self, parents: Int[Tensor, " n_features"], seed: int) -> Float64[Tensor, " n_features"]:
        """The number of each feature."""
        levels = generations(parents)
        by_level = isinstance(self.probability, Listed) and len(self.probability.values) == len(levels)
        n = len(levels) if by_level else len(parents)
        found = probabilities(self.probability, n, generator("probability", seed), PROBABILITY)
        if not by_level:
            return found
        spread = torch.zeros(len(parents), dtype=torch.float64)
        for level, p in zip(levels, found, strict=True):
            spread[level] = p
        return spread

    def coins(
        self, asked: Float64[Tensor, " n_features"], parents: Int[Tensor, " n_features"]
    ) -> tuple[Float64[Tensor, " n_features"], Float64[Tensor, " n_features"]]:
        """Each feature's coin, and its probability to be active if the coins are independent."""
        coin, probability = asked.clone(), asked.clone()
        for level in generations(parents)[1:]:
            above = asked if self.given == "marginal" else probability
            wanted = asked[level] if self.given == "conditional" else asked[level] / above[parents[level]]
            family = parents[level].unique(return_inverse=True)[1]
            if self.given != "nearest":
                self.refuse_too_much(wanted, level, parents)
            coin[level], share = compensated(wanted, family) if self.exclusive else (wanted.clamp(max=1),) * 2
            probability[level] = share * probability[parents[level]]
        return coin, probability

    def refuse_too_much(
        self, wanted: Float64[Tensor, " n"], level: Int[Tensor, " n"], parents: Int[Tensor, " n_features"]
    ) -> None:
        """A ``ValueError`` where a child, or exclusive siblings together, would be active more often than they can."""
        for child in level[wanted > 1 + TOLERANCE][:1].tolist():
            raise UserError(
                f"{PROBABILITY}: feature {child} is asked to be active more often than its parent "
                f'{int(parents[child])}; lower it, or ask for given = "nearest"'
            )
        if not self.exclusive:
            return
        together = torch.zeros(len(parents), dtype=torch.float64).index_add_(0, parents[level], wanted)
        for parent in (together > 1 + TOLERANCE).nonzero()[:1, 0].tolist():
            raise UserError(
                f"{PROBABILITY}: the exclusive children of feature {parent} are asked to be active in "
                f"{float(together[parent]):.3g} times as many rows as it is; lower them, or ask for given = "
                '"nearest"'
            )

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        coin, parents = given["coin"], given["parents"]
        u = torch.special.ndtr(normals(given, size, draw)) if "factor" in given else uniform((size, len(coin)), draw)
        active = u < coin
        if self.exclusive:
            active &= first_of(u / coin, active, given["siblings"])
        for level in generations(parents)[1:]:
            active[:, level] &= active[:, parents[level]]
        return active.float()


def generations(parents: Int[Tensor, " n_features"]) -> list[Int[Tensor, " _"]]:
    """The features without parents, their children, the children's children and so on; parents come before."""
    depth = torch.zeros_like(parents)
    above = parents
    while bool((above >= 0).any()):
        depth += above >= 0
        above = torch.where(above >= 0, parents[above], -1)
    return [(depth == d).nonzero()[:, 0] for d in range(int(depth.max()) + 1)]


def siblings_of(parents: Int[Tensor, " n_features"]) -> Int[Tensor, "n_families width"]:
    """The children of each parent in a row of their own, filled up with ``n_features``."""
    children = (parents >= 0).nonzero()[:, 0]
    family, size = parents[children].unique(return_inverse=True, return_counts=True)[1:]
    order = family.argsort(stable=True)
    place = torch.arange(len(children)) - (size.cumsum(0) - size)[family[order]]
    table = torch.full((len(size), int(size.max()) if len(size) else 0), len(parents))
    table[family[order], place] = children[order]
    return table


def first_of(
    order: Float[Tensor, "size n_features"],
    active: Bool[Tensor, "size n_features"],
    siblings: Int[Tensor, "n_families width"],
) -> Bool[Tensor, "size n_features"]:
    """Whether a feature is the one of its active siblings with the smallest `order`; true for who has no parent.

    ``u / coin`` is uniform where the coin fell, so that without correlation each of them is as likely.
    """
    if siblings.numel() == 0:
        return torch.ones_like(active)
    never = torch.full((len(order), 1), torch.inf)
    padded = torch.cat([torch.where(active, order, torch.inf), never], dim=1)
    best = padded[:, siblings].argmin(-1)
    first = torch.ones(padded.shape, dtype=torch.bool)
    first[:, siblings.flatten()] = False
    first.scatter_(1, siblings.expand(len(order), -1, -1).gather(2, best[..., None])[..., 0], True)
    return first[:, :-1]


def compensated(
    wanted: Float64[Tensor, " n"], family: Int[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """The coins of exclusive siblings, at most 1, and how often one with such a coin remains where the parent is.

    ``c <- wanted / E[1 / (1 + K)]`` rises from `wanted` to the smallest solution; the integral is a polynomial's, and
    so exact by Gauss and Legendre.
    """
    widest = int(family.bincount().max())
    nodes, weights = np.polynomial.legendre.leggauss(widest // 2 + 1)
    t, w = torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2
    coin = wanted.clamp(max=1)
    alone = torch.ones_like(wanted)
    for _ in range(MAX_ROUNDS):
        factor = 1 - coin[:, None] * (1 - t)
        log_all = torch.zeros(int(family.max()) + 1, len(t), dtype=torch.float64).index_add_(0, family, factor.log())
        alone = ((log_all[family] - factor.log()).exp() * w).sum(1)
        better = (wanted / alone).clamp(max=1)
        if float((better - coin).abs().max()) < TOLERANCE:
            break
        coin = better
    return coin, coin * alone

"""Features in trees: a child is active only where its parent is, and siblings may exclude one another.

Every feature g has an independent coin that falls with probability c_g. A child is active where its coin falls and its
parent is active. With `exclusive`, one of the siblings whose coins fall is chosen at random. With K the number of other
siblings whose coins fall,

    P(g | parent) = c_g E[1 / (1 + K)],    E[1 / (1 + K)] = int_0^1 prod_{j != g} (1 - c_j + c_j t) dt.

This is solved for the coins, so that features have the probabilities in the settings and not lower ones (the
compensation of SynthSAEBench, arXiv 2602.14687, which approximates E[1 / (1 + K)] by 1 / (1 + E K)).
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
"""Largest number of fixed-point iterations for the coins of exclusive siblings."""
TOLERANCE = 1e-9
"""Change of a coin at which these iterations stop, and tolerance of the checks of probabilities."""


class Tree(Activity):
    """Trees of features, given by `parents`, or by `roots`, `branching` and `depth`.

    In the second form features are numbered level by level: all roots, all their children, and so on. The remaining
    features are roots without children.
    """

    kind: Literal["tree"] = "tree"
    parents: tuple[int, ...] | None = None
    """Index of each feature's parent, which must be lower than its own; -1 for none."""
    roots: int | None = Field(None, gt=0)
    """Number of trees."""
    branching: int = Field(4, gt=0)
    """Children of each inner node."""
    depth: int = Field(3, gt=0)
    """Levels below the roots."""
    probability: PerFeature
    """Probability of each feature; a list may instead have one number for each level."""
    given: Literal["marginal", "conditional", "nearest"] = "marginal"
    """What `probability` means.

    ``marginal``: the probability of being active. ``conditional``: the probability of being active where the parent is
    (for a root, of being active). ``nearest``: as ``marginal``, but a coin that would need a probability above 1 gets
    1, as in SynthSAEBench, so that a feature can be rarer than its setting.
    """
    exclusive: bool = False
    """Whether at most one of several siblings is active."""
    scaled: bool = False
    """Whether a child's magnitude is multiplied by its parent's magnitude over the parent's mean."""
    correlation: AnyCorrelation | None = None
    """Correlation of the coins; None for independent ones."""

    @model_validator(mode="after")
    def _one_shape(self) -> Tree:
        if (self.parents is None) == (self.roots is None):
            raise UserError("parents, roots: give either parents, or roots with branching and depth")
        return self

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        parents = self.layout(n_features)
        coin, probability = self.coins(self.target_probabilities(parents, seed), parents)
        tensors = {"coin": coin.float(), "parents": parents, "siblings": siblings_of(parents)}
        if self.correlation is not None:  # coins are not independent: the probabilities have no closed form
            return tensors | self.correlation.tensors(n_features, seed)
        return tensors | {"probability": probability.float()}

    def layout(self, n_features: int) -> Int[Tensor, " n_features"]:
        """The parent of each feature, -1 for none."""
        if self.parents is not None:
            if len(self.parents) != n_features:
                raise UserError(
                    f"activity.parents: {len(self.parents)} numbers for n_features = {n_features}; give one for each"
                )
            for child, parent in enumerate(self.parents):
                if not -1 <= parent < child:
                    raise UserError(
                        f"activity.parents: feature {child} has the parent {parent}; number parents before children"
                    )
            return torch.tensor(self.parents)
        assert self.roots is not None
        n_inner = self.roots * sum(self.branching**level for level in range(self.depth))
        n_nodes = self.roots + n_inner * self.branching
        if n_nodes > n_features:
            raise UserError(
                f"n_features = {n_features}: the trees have {n_nodes} nodes; raise it, or lower roots, branching or "
                "depth"
            )
        alone = torch.full((self.roots,), -1), torch.full((n_features - n_nodes,), -1)
        return torch.cat([alone[0], torch.arange(n_inner).repeat_interleave(self.branching), alone[1]])

    def target_probabilities(self, parents: Int[Tensor, " n_features"], seed: int) -> Float64[Tensor, " n_features"]:
        """The setting `probability` of each feature."""
        levels = generations(parents)
        by_level = isinstance(self.probability, Listed) and len(self.probability.values) == len(levels)
        n = len(levels) if by_level else len(parents)
        given = probabilities(self.probability, n, generator("probability", seed), PROBABILITY)
        if not by_level:
            return given
        of_features = torch.zeros(len(parents), dtype=torch.float64)
        for level, p in zip(levels, given, strict=True):
            of_features[level] = p
        return of_features

    def coins(
        self, target: Float64[Tensor, " n_features"], parents: Int[Tensor, " n_features"]
    ) -> tuple[Float64[Tensor, " n_features"], Float64[Tensor, " n_features"]]:
        """The coin probability of each feature, and its probability of being active if the coins are independent.

        Raises `UserError` if a feature cannot have its `target`, the setting `probability`.
        """
        coin, probability = target.clone(), target.clone()
        for level in generations(parents)[1:]:
            above = target if self.given == "marginal" else probability
            conditional = target[level] if self.given == "conditional" else target[level] / above[parents[level]]
            family = parents[level].unique(return_inverse=True)[1]
            if self.given != "nearest":
                self.check_possible(conditional, level, parents)
            coin[level], share = compensated(conditional, family) if self.exclusive else (conditional.clamp(max=1),) * 2
            probability[level] = share * probability[parents[level]]
        return coin, probability

    def check_possible(
        self, conditional: Float64[Tensor, " n"], level: Int[Tensor, " n"], parents: Int[Tensor, " n_features"]
    ) -> None:
        """Raises `UserError` if `conditional`, or its sum over exclusive siblings, is above 1."""
        for child in level[conditional > 1 + TOLERANCE][:1].tolist():
            raise UserError(
                f"{PROBABILITY}: feature {child} would be active more often than its parent {int(parents[child])}; "
                'lower it, or set given = "nearest"'
            )
        if not self.exclusive:
            return
        together = torch.zeros(len(parents), dtype=torch.float64).index_add_(0, parents[level], conditional)
        for parent in (together > 1 + TOLERANCE).nonzero()[:1, 0].tolist():
            raise UserError(
                f"{PROBABILITY}: the exclusive children of feature {parent} would be active in "
                f'{float(together[parent]):.3g} times as many samples as it is; lower them, or set given = "nearest"'
            )

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        coin, parents = tensors["coin"], tensors["parents"]
        correlated = "factor" in tensors
        u = torch.special.ndtr(normals(tensors, size, draw)) if correlated else uniform((size, len(coin)), draw)
        active = u < coin
        if self.exclusive:
            active &= first_of(u / coin, active, tensors["siblings"])
        for level in generations(parents)[1:]:
            active[:, level] &= active[:, parents[level]]
        return active.float()


def generations(parents: Int[Tensor, " n_features"]) -> list[Int[Tensor, " _"]]:
    """The features by level: those without parents, their children, the children's children, and so on."""
    depth = torch.zeros_like(parents)
    above = parents
    while bool((above >= 0).any()):
        depth += above >= 0
        above = torch.where(above >= 0, parents[above], -1)
    return [(depth == d).nonzero()[:, 0] for d in range(int(depth.max()) + 1)]


def siblings_of(parents: Int[Tensor, " n_features"]) -> Int[Tensor, "n_families width"]:
    """The children of each parent, one parent per row, padded with ``n_features``."""
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
    """Whether a feature has the smallest `order` among its active siblings; true for features without a parent.

    The order ``u / coin`` is uniform where the coin fell, so without correlation each of these siblings is equally
    likely to be first.
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
    conditional: Float64[Tensor, " n"], family: Int[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """The coins of exclusive siblings, at most 1, and the resulting probabilities of being active given the parent.

    The iteration ``c <- conditional / E[1 / (1 + K)]`` rises from `conditional` to the smallest solution. The integrand
    is a polynomial, so Gauss-Legendre quadrature is exact.
    """
    widest = int(family.bincount().max())
    nodes, weights = np.polynomial.legendre.leggauss(widest // 2 + 1)
    t, w = torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2
    coin = conditional.clamp(max=1)
    remains = torch.ones_like(conditional)  # E[1 / (1 + K)]
    for _ in range(MAX_ROUNDS):
        factor = 1 - coin[:, None] * (1 - t)
        log_all = torch.zeros(int(family.max()) + 1, len(t), dtype=torch.float64).index_add_(0, family, factor.log())
        remains = ((log_all[family] - factor.log()).exp() * w).sum(1)
        updated = (conditional / remains).clamp(max=1)
        if float((updated - coin).abs().max()) < TOLERANCE:
            break
        coin = updated
    return coin, coin * remains

"""Facts about given directions, in closed form or from a few samples: dimensions per feature, analogies, the senses of
superposition, and what a basis is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.studies import Fact, falling, listed, trained
from sae.analysis.geometry.analogy import analogies
from sae.analysis.geometry.basis import basis_alignment, kurtosis
from sae.analysis.geometry.geometry import (
    dimensionality,
    expected_nearest,
    interference,
    nearest_cosine,
    superposition,
)
from sae.analysis.toy_models.by_active import mean_by_active, network_losses
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.sources.features import Config as Features
from sae.toys.features.directions import rotation

POLYTOPES = (("digon", 2, 1), ("triangle", 3, 2), ("tetrahedron", 4, 3), ("pentagon", 5, 2), ("square_antiprism", 8, 3))
"""Polytopes, with their corners and dimensions."""


def dimensions() -> Iterator[Fact]:
    """Dimensions per feature D of polytopes, and the interference of their features."""
    rows = {name: _directions(n, d, {"kind": "polytope", "name": name}) for name, n, d in POLYTOPES}
    D = torch.stack([dimensionality(of).mean() for of in rows.values()])
    yield Fact("D of digon, triangle, tetrahedron, pentagon, square antiprism", "½, ⅔, ¾, ⅖, ⅜", listed(D, ".4f"))
    shared = [float(interference(rows[name])[0]) for name in ("digon", "triangle", "pentagon")]
    yield Fact("interference in a digon, a triangle, a pentagon", "1, ½, 1½", listed(shared, ".4f"))
    apart = float(interference(torch.eye(5)).abs().max())
    yield Fact("interference of orthogonal features", "0", f"{apart:.4f}")


def analogy() -> Iterator[Fact]:
    """King - man + woman = queen: words that are sums of two attributes, next to random vectors."""
    # man : king = woman : queen
    asked = torch.tensor([[1, 0, 2, 3]])
    sums, random = 0.0, 0.0
    for draw in range(50):
        royal, male, female, common = torch.randn(4, 32, generator=generator("analogy", draw))
        others = torch.randn(100, 32, generator=generator("analogy", "others", draw))
        words = torch.stack([royal + male, common + male, common + female, royal + female])
        sums += analogies(torch.cat([words, others]), asked).accuracy / 50
        random += analogies(torch.randn(104, 32, generator=generator("random", draw)), asked).accuracy / 50
    yield Fact("share of 50 vocabularies of 104 words in which queen is nearest", "1", f"{sums:.2f}")
    yield Fact("the same for random vectors", "about .01", f"{random:.2f}")


def basis() -> Iterator[Fact]:
    """A linear hidden layer has no privileged basis, a layer with a ReLU has one."""
    for activation, expected in (("linear", "inside the interval"), ("relu", "above it")):
        s = trained(20, 0.1, 5, network={"activation": activation}, importance=falling(0.7), instances=4)
        x = s.batch(0, 20_000, "test").acts
        a = basis_alignment(x, kurtosis)
        yield Fact(
            f"{activation}: kurtosis of the hidden layer's coordinates [after random rotations]",
            expected,
            f"{a.value:.1f} [{a.low:.1f}, {a.high:.1f}]",
        )
    W = trained(20, 0.1, 5, importance=falling(0.7), instances=1).networks.W[0]
    turned = W @ rotation(5, generator("basis", 0)).to(W)
    yield Fact(
        "largest change of W Wᵀ by a rotation of the hidden layer",
        "0",
        f"{float((W @ W.T - turned @ turned.T).abs().max()):.0e}",
    )


def nearly_orthogonal() -> Iterator[Fact]:
    """Exponentially many vectors are almost orthogonal: the largest cosine with another of n random vectors."""
    for n, d in ((1024, 96), (4096, 400), (16_384, 768)):
        nearest = nearest_cosine(unit(torch.randn(n, d, generator=generator("nearest", n))))
        yield Fact(
            f"{n} vectors in {d} dimensions, mean over vectors",
            f"at most {expected_nearest(n, d):.3f}",
            f"{float(nearest.mean()):.3f}",
        )


def categories() -> Iterator[Fact]:
    """A word class or a language: a group of features of which exactly one is active."""
    source = Features(n_features=8, d_in=4, activity={"kind": "one_of", "size": 8, "probability": 1.0}, seed=0).build()  # pyright: ignore
    codes = source.batch(0, 20_000, "test").codes
    assert codes is not None
    active = (codes > 0).sum(1)
    yield Fact("share of samples with exactly one of eight features", "1", f"{float((active == 1).float().mean()):.4f}")


def definitions() -> Iterator[Fact]:
    """Three senses of superposition: a neuron with several features (polysemantic), a feature over several neurons
    (spread), more features than dimensions (crowded)."""
    turned = rotation(4, generator("definitions", 0)).float()
    cases: Mapping[str, tuple[Any, str]] = {
        "as many features as neurons": (torch.eye(3), "no, no, no"),
        "cat and car on one signed neuron": ([[1.0], [-1.0]], "yes, no, yes"),
        "square, circle, triangle in two neurons": ([[1.0, 0], [0, 1], [1, 1]], "yes, yes, yes"),
        "square and circle with a common part": ([[1.0, 0], [1, 1]], "yes, yes, no"),
        "four features in four dimensions, rotated": (turned, "yes, yes, no"),
        "five features in two dimensions, a pentagon": (
            _directions(5, 2, {"kind": "polytope", "name": "pentagon"}), "yes, yes, yes"
        ),
    }  # fmt: skip
    for name, (rows, expected) in cases.items():
        s = superposition(unit(torch.as_tensor(rows)))
        senses = ("yes" if holds else "no" for holds in (s.polysemantic, s.spread, s.crowded))
        yield Fact(f"{name}: polysemantic, spread, crowded", expected, ", ".join(senses))


def by_active() -> Iterator[Fact]:
    """Interference of one active feature and of several at once, in a network that passes 20 features through 5
    dimensions."""
    s = trained(20, 0.05, 5, instances=4)
    losses, active = network_losses(s, 200_000)
    strata = {stratum.n_active: stratum.mean for stratum in mean_by_active(losses, active)}
    ratios = [strata[k] / strata[1] for k in (2, 3, 4)]
    yield Fact("loss with 2, 3, 4 active features, divided by that with one", "more than 2, 3, 4", listed(ratios))


def _directions(n: int, d: int, directions: dict[str, Any]) -> Tensor:
    activity = {"kind": "independent", "probability": 0.1}
    truth = Features(n_features=n, d_in=d, activity=activity, directions=directions).build().truth  # pyright: ignore
    assert truth is not None
    return truth.directions

"""A test for superposition from activations alone: its size on data without, its power on data with superposition."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.studies import Fact
from sae.analysis.geometry.superposition_test import SuperpositionTest, superposition_test
from sae.numerics.seeds import generator
from sae.sources.features import Config as Features

LEVEL = 0.05
N_DRAWS = 19
"""The fewest redraws of a test at that level."""
N_ROWS = 3000
SETS = 20
"""Data sets of each kind without superposition."""
FRESH = 10_000
"""The first seed of data sets on which no setting of the test was chosen."""
DIMS = (2, 4, 8, 16)
AGREE = 0.97
"""The mean |cosine| from which on fits from other starts count as the same."""
INDEPENDENT = {"kind": "independent"}
COPULA = {"kind": "copula", "correlation": {"kind": "equal", "value": 0.6}}
ONE_OF = {"kind": "one_of", "size": 2}
RATES = {"kind": "log_uniform", "low": 0.02, "high": 0.3}


class _Kind(NamedTuple):
    """A kind of data, with settings of the source of features."""

    per_dimension: float
    """Features for each dimension."""
    probability: Any
    """Firing probability, or a series of them."""
    activity: Mapping[str, Any] = INDEPENDENT
    """Which features are active together."""
    directions: Literal["orthonormal", "eyas", "random", "pentagon"] = "orthonormal"
    """Directions, all rotated; in `eyas` every other feature is at 45 degrees to the one before."""
    noise: float = 0.0
    """The standard deviation of noise on every coordinate."""
    offset: float = 0.0
    """The norm of a constant."""
    unequal: bool = False
    """Whether the norms of features differ by a factor of up to e^2."""

    def rows(self, d: int, n: int, seed: int, n_features: int = 0) -> Tensor:
        """Activations."""
        n_features = n_features or max(1, round(self.per_dimension * d))
        directions: dict[str, Any] = {"kind": self.directions}
        if self.directions == "eyas":
            directions = {"kind": "explicit", "vectors": _eyas(n_features, d), "rotate": True}
        if self.directions == "pentagon":
            directions = {"kind": "polytope", "name": "pentagon"}
        config: Any = {"activity": {**self.activity, "probability": self.probability}, "directions": directions}
        source = Features(n_features=n_features, d_in=d, offset=self.offset, seed=seed, **config).build()
        batch, draw = source.batch(0, n), generator("crowding", seed)
        assert batch.codes is not None and source.truth is not None
        norms = (2 * torch.rand(n_features, generator=draw) - 1).exp() if self.unequal else torch.ones(n_features)
        acts = batch.acts + batch.codes * (norms - 1) @ source.truth.directions
        return acts + self.noise * torch.randn(acts.shape, generator=draw)


def _eyas(n: int, d: int) -> list[list[float]]:
    """Axes, of which every other one is turned by 45 degrees towards the one before."""
    rows = torch.eye(d)[:n]
    rows[1::2] += torch.eye(d)[: n - 1 : 2]
    return rows.tolist()


NULL = {
    "n = d, orthogonal, p = .05": _Kind(1, 0.05),
    "n = d, orthogonal, p = .15": _Kind(1, 0.15),
    "n = d, orthogonal, p = .3": _Kind(1, 0.3),
    "n = d, orthogonal, noise .05": _Kind(1, 0.1, noise=0.05),
    "n = d / 2, pairs at 45°, noise .05": _Kind(0.5, 0.1, directions="eyas", noise=0.05),
    "n = d, orthogonal, activity correlated by a copula of .6": _Kind(1, 0.1, COPULA),
    "n = d, pairs at 45°, the same correlation, noise .03": _Kind(1, 0.1, COPULA, "eyas", 0.03),
    "n = d, pairs at 45° that exclude each other": _Kind(1, 0.2, ONE_OF, "eyas"),
    "n = d, random angles": _Kind(1, 0.1, directions="random"),
    "n = d, pairs at 45°, unequal rates and norms, noise .02, offset": _Kind(
        1, RATES, directions="eyas", noise=0.02, offset=1.0, unequal=True
    ),
}
PLANTED = {
    "5 in 2, pentagon": (2, 5, _Kind(2.5, 0.05, directions="pentagon")),
    "5 in 2, pentagon, noise .05": (2, 5, _Kind(2.5, 0.05, directions="pentagon", noise=0.05)),
    "8 in 3": (3, 8, _Kind(3, 0.1, directions="random", noise=0.03)),
    "8 in 4": (4, 8, _Kind(2, 0.1, directions="random", noise=0.03)),
    "8 in 5": (5, 8, _Kind(2, 0.1, directions="random", noise=0.03)),
    "64 in 32": (32, 64, _Kind(2, 0.05, directions="random", noise=0.03)),
}


def superposition_size() -> Iterator[Fact]:
    """How often the test rejects where there are at most as many features as dimensions: 20 data sets of each of ten
    kinds, in 2, 4, 8 and 16 dimensions, 3000 rows, 19 redraws, at level .05."""
    every: list[SuperpositionTest] = []
    for k, (name, kind) in enumerate(NULL.items()):
        tests = [_test(kind.rows(DIMS[i % 4], N_ROWS, i), i) for i in range(FRESH + k * SETS, FRESH + (k + 1) * SETS)]
        every += tests
        yield Fact(name, ".05", _rejected(tests))
    yield Fact("all kinds", ".05", _rejected(every))
    for d in DIMS:
        yield Fact(f"all kinds, d = {d}", ".05", _rejected([t for t in every if t.n_dims == d]))
    agree = [t for t in every if t.narrow_agreement >= AGREE]
    for name, some in (("agree", agree), ("do not", [t for t in every if t not in agree])):
        yield Fact(f"narrow fits from other starts {name} ({len(some)} sets)", ".05", _rejected(some))


def superposition_power() -> Iterator[Fact]:
    """How often the test rejects where there are more features than dimensions: 10,000 rows, 10 data sets each (3 of
    64 in 32), 19 redraws, at level .05."""
    for name, (d, n, kind) in PLANTED.items():
        start, n_sets = time.process_time(), 3 if d > 16 else 10
        tests = [_test(kind.rows(d, 10_000, i, n), i, count=True) for i in range(n_sets)]
        seconds = (time.process_time() - start) / n_sets
        yield Fact(f"{name}: rejected", "at least .9", _rejected(tests))
        saved = f"{_mean([t.advantage for t in tests]):.3f}; {_mean([t.null.value for t in tests]):.3f}"
        yield Fact(f"{name}: cost saved, and under H0", "", saved)
        widths = ", ".join(f"{t.n_features.value:.0f}" for t in tests[:5])
        yield Fact(f"{name}: width by held-out cost, the first sets", str(n), widths)
        yield Fact(f"{name}: CPU seconds of a test", "", f"{seconds:.1f}")


def superposition_rows() -> Iterator[Fact]:
    """The power by the number of rows and by noise, 10 data sets each."""
    sets = (
        ("pentagon", 2, 5, _Kind(2.5, 0.05, directions="pentagon")),
        ("8 in 4", 4, 8, _Kind(2, 0.1, directions="random")),
    )
    for name, d, n, kind in sets:
        for noise in (0.0, 0.05):
            noisy = kind._replace(noise=noise)
            powers = [
                _power([_test(noisy.rows(d, rows, i, n), i) for i in range(10)]) for rows in (300, 1000, 3000, 10_000)
            ]
            yield Fact(f"{name}, noise {noise:g}: rejected with 300, 1000, 3000, 10,000 rows", "", _listed(powers))


def superposition_controls() -> Iterator[Fact]:
    """What the test should not depend on, and hypotheses that are not that of few features: 3000 rows, 10 data sets."""
    null, planted = NULL["n = d, orthogonal, p = .15"], PLANTED["8 in 4"][2]
    without, with_ = partial(null.rows, 4, N_ROWS), partial(planted.rows, 4, N_ROWS, n_features=8)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator("rotation")))[0]
    apart = [abs(_test(x, 0, 1).advantage - _test(x @ rotation, 0, 1).advantage) for x in (with_(0), without(0))]
    yield Fact("change of the saved cost by a rotation, with and without superposition", "0", _listed(apart, ".4f"))
    for name, rows in (("4 in 4", without), ("8 in 4", with_)):
        tests = [_test(rows(i), i, n_gaussian=N_DRAWS) for i in range(10)]
        saved = (_mean([t.advantage for t in tests]), _mean([t.gaussian.value for t in tests]))
        gaussian = f"{_power(tests, gaussian=True):.1f}; {_listed(saved, '.3f')}"
        yield Fact(f"{name}: rejected against Gaussian rows; cost saved; by Gaussian rows", "", gaussian)
        independent = [_test(rows(i), i, activity="independent") for i in range(10)]
        yield Fact(f"{name}: rejected with independent activity under H0", "", _rejected(independent))
    tests = [_test(_permuted(with_(i), i), i) for i in range(10)]
    yield Fact("8 in 4, coordinates permuted apart: rejected (4 independent features)", ".05", _rejected(tests))
    correlated = NULL["n = d, orthogonal, activity correlated by a copula of .6"]
    tests = [_test(correlated.rows(8, N_ROWS, i), i, activity="independent") for i in range(10)]
    yield Fact("8 in 8, correlated: rejected with independent activity under H0", "", _rejected(tests))
    unequal = NULL["n = d, pairs at 45°, unequal rates and norms, noise .02, offset"]
    tests = [_test(unequal.rows(16, N_ROWS, i), i, 1, n_gaussian=N_DRAWS) for i in range(10)]
    yield Fact(
        "16 in 16, unequal rates and norms: rejected against Gaussian rows", "", f"{_power(tests, gaussian=True):.1f}"
    )
    angle = 2 * math.pi * torch.rand(10, N_ROWS, generator=generator("circle"))
    circles = torch.stack([angle.cos(), angle.sin()], dim=-1)
    yield Fact("points on a circle, which has no features: rejected", "", _rejected([_test(x, 0) for x in circles]))


def _test(x: Tensor, seed: int, n_draws: int = N_DRAWS, **settings: Any) -> SuperpositionTest:
    return superposition_test(x, n_draws=n_draws, seed=seed, **settings)


def _permuted(x: Tensor, seed: int) -> Tensor:
    """Rows whose coordinates are permuted independently of one another."""
    draw = generator("permuted", seed)
    return torch.stack([column[torch.randperm(len(x), generator=draw)] for column in x.T], dim=1)


def _power(tests: Sequence[SuperpositionTest], gaussian: bool = False) -> float:
    return _mean([float((t.p_gaussian if gaussian else t.p) <= LEVEL + 1e-9) for t in tests])


def _rejected(tests: Sequence[SuperpositionTest]) -> str:
    """The share that is rejected, with its exact binomial interval (Clopper and Pearson 1934)."""
    from scipy import stats

    n, k = len(tests), round(_power(tests) * len(tests))
    interval = stats.binomtest(k, n).proportion_ci()
    return f"{k / n:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _listed(values: Sequence[float], form: str = ".1f") -> str:
    return ", ".join(format(value, form) for value in values)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

"""Options of training, each alone against the defaults: paired differences of recovery, at one sparsity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sae
from benchmarks.studies import Fact
from sae.numerics.statistics import Estimate, mean_interval
from sae.source import Source
from sae.sources.correlated import Config as Correlated
from sae.sources.features import Config as Features

OPTIONS: dict[str, dict[str, Any]] = {
    'start = "orthogonal"': {"start": "orthogonal"},
    'start = "data"': {"start": "data"},
    'centre = "none"': {"centre": "none"},
    'centre = "median"': {"centre": "median"},
    'input_scale = "whiten"': {"input_scale": "whiten"},
    "average = 0.99": {"average": 0.99},
    "aligned = true": {"aligned": True},
    'decoder = "weighted"': {"decoder": "weighted"},
}
SCORES = ("mcc", "f1_macro")
SEEDS = range(3)
TREE = {
    "kind": "tree",
    "roots": 4,
    "branching": 3,
    "depth": 2,
    "probability": {"kind": "zipf", "exponent": 0.5, "first": 0.4, "last": 5e-3},
    "given": "nearest",
    "exclusive": True,
    "scaled": True,
}


def training_options() -> Iterator[Fact]:
    """L1 at the true L0 and BatchTopK, on two toys of three data sets each: what every option of training changes, the
    mean paired difference to the defaults with its 95% interval."""
    toys = {
        "128 correlated features in 64 dimensions": [_correlated(seed) for seed in SEEDS],
        "128 features with trees and an offset in 48 dimensions": [_trees(seed) for seed in SEEDS],
    }
    for kind in ("relu", "batchtopk"):
        default = {name: [_scores(kind, source, {}) for source in sources] for name, sources in toys.items()}
        for name, scores in default.items():
            means = ", ".join(f"{s} {sum(row[s] for row in scores) / len(scores):.3f}" for s in SCORES)
            yield Fact(f"{kind}, {name}, defaults", "", means)
        for option, settings in OPTIONS.items():
            if "decoder" in settings and kind != "relu":
                continue
            for name, sources in toys.items():
                scores = [_scores(kind, source, settings) for source in sources]
                pairs = list(zip(scores, default[name], strict=True))
                apart = (mean_interval([a[s] - b[s] for a, b in pairs]) for s in SCORES)
                yield Fact(f"{kind}, {name}, {option}", "", ", ".join(map(_shown, SCORES, apart)))


def _correlated(seed: int) -> Source:
    return Correlated(n_features=128, d_in=64, seed=seed).build()


def _trees(seed: int) -> Source:
    values = {"kind": "rectified_normal", "mu": 4.5, "sigma": 0.5}
    return Features(n_features=128, d_in=48, offset=0.5, activity=TREE, values=values, seed=seed).build()


def _scores(kind: str, source: Source, settings: dict[str, Any]) -> dict[str, float]:
    """The scores of one dictionary with a latent for every feature."""
    rows = source.batch(0, 10_000, "test")
    assert rows.codes is not None and source.truth is not None
    active = max(1, round(float((rows.codes > 0).sum(1).float().mean())))
    sparsity = {"l0": active} if kind == "relu" else {"k": active}
    d = sae.fit(
        source, kind=kind, n_latents=128, steps=1500, batch_size=256, lr=2e-3, seeds=[0], **sparsity, **settings
    )[0]
    scores = sae.score(d, rows.acts, source.truth.directions, rows.codes, metrics=["recovery", "firing"])
    return {name: scores[name] for name in SCORES}


def _shown(name: str, e: Estimate) -> str:
    return f"{name} {e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"

"""What stands between learned and true directions, on the suites whose features no method finds in full.

Refinement that starts at the true directions: where they stay and a dictionary learned from data does not reach them,
the search fails; where they do not stay, no better search could help. And features with few samples, once the others
are known.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.studies import Fact
from benchmarks.studies.small_data import N_ROWS
from sae.baselines.dictionary_learning import Config as DictionaryLearning
from sae.baselines.dictionary_learning import Learner
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.codes import Config as Codes
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.stagewise import deviations_for, stagewise
from sae.refinement import RefineConfig, refined
from sae.source import Source, Truth
from sae.sources.features import Config as Features

SUITES = Path(__file__).parents[2] / "configs" / "suites"
FIXED = {"rare": 0.0, "replace_until": 0.0}
"""Settings of a refinement that neither moves nor drops latents."""
STARTS = (
    ("zipf-3200", (1000, 3200), RefineConfig(false_alarms=3.0, k=48, steps=60, keep=0.95, **FIXED)),
    ("cs-1000", (1000, 500), RefineConfig(false_alarms=0.3, steps=40, **FIXED)),
    ("synthsae-1k", (1024, 256), RefineConfig(false_alarms=0.3, k=48, steps=60, **FIXED)),
)
"""Suites, how many of the most frequent features have a latent, and the settings."""


def from_truth() -> Iterator[Fact]:
    """Refinement from the true directions of the most frequent features, without moving latents: how many of them are
    still above .8 and above .9."""
    for suite, counts, config in STARTS:
        source, truth, often = _source(suite)
        for n in counts:
            W = unit(truth.directions)[often[:n]]
            offset = torch.zeros(source.d_in) if truth.offset is None else truth.offset
            d = refined(Relu.tied(W, offset), source, config, seed=0)
            about = f"{suite}, {n} latents at the most frequent features"
            yield Fact(f"{about}: features still above .8 and .9", str(n), _above(W, d.W_dec))
            if suite == "cs-1000":
                rows = source.batch(0, N_ROWS, "test")
                code_mcc = Codes().score(Case(d, Evidence(rows, rows, truth))).scalars["code_mcc"]
                yield Fact(f"{about}: code mcc on held-out samples", "", f"{code_mcc:.3f}")


def rare_half() -> Iterator[Fact]:
    """The 500 rarest features of cs-1000, about a dozen samples each, when the others are known: how many dictionary
    learning finds, above .8 and above .9."""
    source, truth, often = _source("cs-1000")
    rows = source.at_most(N_ROWS, "train")
    assert rows.codes is not None
    F = unit(truth.directions)
    known, rare = F[often[:500]], F[often[500:]]
    alone = rows.codes[:, often[500:]] @ rare
    alone = alone[alone.norm(dim=1) > 0]
    yield Fact("the others' part removed exactly", "500", _above(rare, _learned(alone, _some(alone), 0.05, 100)))
    residual = stagewise(rows.acts, known, deviations_for(0.02, 500), 5, 24).residual
    learned = _learned(residual, _some(residual), 0.2, 60)
    yield Fact("the others' part removed by codes over their true directions", "500", _above(rare, learned))
    together = _learned(rows.acts, torch.cat([known, learned]), 0.1, 60)
    yield Fact("then all learned together, from there", "500", _above(rare, together))


def _source(suite: str) -> tuple[Source, Truth, Int[Tensor, " n_features"]]:
    """The first data set of a suite, its truth, and its features, the most frequent first."""
    settings: dict[str, Any] = tomllib.loads((SUITES / f"{suite}.toml").read_text())["source"]
    first: dict[str, Any] = settings[0] if isinstance(settings, list) else settings
    source = Features(**{**first, "seed": first["seed"][0]}).build()
    codes = source.at_most(20_000, "train").codes
    assert source.truth is not None and codes is not None
    return source, source.truth, (codes > 0).sum(0).argsort(descending=True, stable=True)


def _above(features: Float[Tensor, "n d_in"], W_dec: Float[Tensor, "m d_in"]) -> str:
    best = (features @ W_dec.T).amax(1)
    return f"{int((best > 0.8).sum())} and {int((best > 0.9).sum())}"


def _some(x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "500 d_in"]:
    return unit(x[torch.randperm(len(x), generator=generator("rare_half", 0))[:500]])


def _learned(
    x: Float[Tensor, "rows d_in"], start: Float[Tensor, "n d_in"], l1: float, rounds: int
) -> Float[Tensor, "n d_in"]:
    """Directions after so many rounds of dictionary learning with momentum."""
    config = DictionaryLearning(
        n_latents=len(start), mode="batch", l1=l1, units="raw", rounds=rounds, n_iterations=15, momentum=0.9
    )
    learner = Learner(start.contiguous(), config)
    learner.run_batch(x, l1)
    return learner.W_dec

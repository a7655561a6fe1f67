"""Few rows, many features: dictionary learning fitted to the rows that are scored, as Pacela et al. 2026 do, and held
out (arXiv 2603.28744, their figures from the released results, 3 seeds)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.studies import Fact, listed
from sae.baselines.dictionary_learning import Config as DictionaryLearning
from sae.metric import Case, Evidence
from sae.metrics.codes import Config as Codes
from sae.source import Batch, Source
from sae.sources.features import Config as Features

N_ROWS = 2500
PUBLISHED = DictionaryLearning(
    n_latents=100, mode="batch", n_samples=N_ROWS, rounds=1000, l1=0.1, units="raw", start="random"
)


def _code_mcc(source: Source, seed: int) -> tuple[float, float]:
    """Of one dictionary, on the rows that it was fitted to and on others."""
    d = PUBLISHED.fit(source, seed)
    fitted, held_out = source.at_most(N_ROWS, "train"), source.batch(0, N_ROWS, "test")

    def scored(rows: Batch) -> float:
        return Codes().score(Case(d, Evidence(rows, rows, source.truth))).scalars["code_mcc"]

    return scored(fitted), scored(held_out)


def _source(kind: str, seed: int) -> Source:
    return Features(n_features=100, d_in=47, activity={"kind": kind, "k": 10}, n_train=N_ROWS, seed=seed).build()


def transduction() -> Iterator[Fact]:
    """100 features, 10 active, 47 dimensions, 2500 rows: whether held-out rows score lower than those of the fit."""
    for kind, name, published in (("concept", "theirs", ".951 (.971, .956, .924)"), ("fixed", "all alike", "")):
        fitted, held_out = zip(*(_code_mcc(_source(kind, seed), seed) for seed in range(3)), strict=True)
        yield Fact(f"rows {name}: code mcc on the rows of the fit, 3 seeds", published, listed(fitted, ".3f"))
        yield Fact(f"rows {name}: code mcc on held-out rows", "", listed(held_out, ".3f"))

"""Few samples and many features: dictionary learning scored on its training samples, as in Pacela et al. 2026, and on
held-out samples (arXiv 2603.28744; expected values are their released results, 3 seeds). And k-SVD with signed
codes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.studies import Fact, listed
from sae.baselines.dictionary_learning import Config as DictionaryLearning
from sae.baselines.dictionary_learning import Learner
from sae.baselines.ksvd import Config as Ksvd
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.codes import Config as Codes
from sae.metrics.legacy import Config as Legacy
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.source import Batch, Source
from sae.sources.correlated import Config as Correlated
from sae.sources.features import Config as Features

N_ROWS = 2500
PUBLISHED = DictionaryLearning(
    n_latents=100, mode="batch", n_samples=N_ROWS, rounds=1000, l1=0.1, units="raw", start="random"
)
SHORT = PUBLISHED.model_copy(update={"n_iterations": 15})
OURS = SHORT.model_copy(update={"rounds": 600, "momentum": 0.9, "debiased": 30, "debiased_l1": 0.2})


def _source(kind: str, n_features: int, d_in: int, seed: int) -> Source:
    activity = {"kind": kind, "k": 10}
    return Features(n_features=n_features, d_in=d_in, activity=activity, n_train=N_ROWS, seed=seed).build()


def _code_mcc(config: DictionaryLearning, source: Source, seed: int) -> tuple[float, float]:
    """Code MCC of one dictionary on its training samples and on held-out samples."""
    d = config.fit(source, seed)
    fitted, held_out = source.at_most(N_ROWS, "train"), source.batch(0, N_ROWS, "test")

    def scored(rows: Batch) -> float:
        return Codes().score(Case(d, Evidence(rows, rows, source.truth))).scalars["code_mcc"]

    return scored(fitted), scored(held_out)


def transduction() -> Iterator[Fact]:
    """100 features, 10 active, 47 dimensions, 2500 samples: whether held-out samples score lower than the training
    samples."""
    for kind, name, published in (("concept", "as published", ".951 (.971, .956, .924)"), ("fixed", "all alike", "")):
        scores = (_code_mcc(PUBLISHED, _source(kind, 100, 47, seed), seed) for seed in range(3))
        fitted, held_out = zip(*scores, strict=True)
        yield Fact(f"samples {name}: code mcc on the training samples, 3 seeds", published, listed(fitted, ".3f"))
        yield Fact(f"samples {name}: code mcc on held-out samples", "", listed(held_out, ".3f"))


def few_rows() -> Iterator[Fact]:
    """500 and 1000 features from 2500 samples: rounds as published (with 15 steps of FISTA each), and with momentum and
    final rounds without the shrinkage."""
    for n_features, d_in, published in ((500, 79, ".963"), (1000, 93, ".763")):
        source = _source("concept", n_features, d_in, 0)
        for name, config, expected in (("as published", SHORT, published), ("with both", OURS, "")):
            fitted, held_out = _code_mcc(config.model_copy(update={"n_latents": n_features}), source, 0)
            yield Fact(f"{n_features} features, {name}: code mcc on the training samples", expected, f"{fitted:.3f}")
            yield Fact(f"{n_features} features, {name}: code mcc on held-out samples", "", f"{held_out:.3f}")


def init_at_truth() -> Iterator[Fact]:
    """1000 features from 2500 samples, initialised at the true directions: whether dictionary learning stays there."""
    source = _source("concept", 1000, 93, 0)
    truth = source.truth
    assert truth is not None
    x, config = source.at_most(N_ROWS, "train").acts, OURS.model_copy(update={"rounds": 200, "momentum": 0.0})

    def share_found(W_dec: Tensor) -> str:
        return f"{float(((truth.directions @ W_dec.T).amax(1) > 0.9).float().mean()):.3f}"

    plain, other = Learner(truth.directions, config), Learner(truth.directions, config)
    plain.run_batch(x, config.l1)
    yield Fact("share of features still found above .9 after 200 rounds with shrinkage", "", share_found(plain.W_dec))
    other.run_debiased(x, config.l1, x.new_zeros(len(x), 1000))
    yield Fact("the same after 30 rounds without shrinkage", "", share_found(other.W_dec))


def signs() -> Iterator[Fact]:
    """512 correlated features, 8000 samples, k = 6, six rounds: k-SVD with signed codes, as published (the expected
    value is from such a run elsewhere, on one data set), and with non-negative codes, as here."""
    ours, signed = list[float](), list[float]()
    for seed in range(3):
        source = Correlated(n_features=512, d_in=256, seed=seed).build()
        rows = source.batch(0, 5000, "test")
        x = source.at_most(8000, "train").acts
        for scores, d in (
            (ours, Ksvd(n_latents=512, k=6, n_iterations=6).fit(source, 0)),
            (signed, Relu.tied(_signed_ksvd(x[x.any(-1)], 512, 6, 6, seed))),
        ):
            scores.append(Legacy().score(Case(d, Evidence(rows, rows, source.truth))).scalars["mcc_absolute"])
    yield Fact("signed codes: mcc by |cos|, 3 data sets", ".699 (one)", listed(signed, ".3f"))
    yield Fact("non-negative codes: mcc by |cos|, 3 data sets", "", listed(ours, ".3f"))


def _signed_ksvd(x: Float[Tensor, "rows d_in"], n: int, k: int, rounds: int, seed: int) -> Float[Tensor, "n d_in"]:
    """k-SVD (Aharon, Elad and Bruckstein 2006), with data points as initial directions."""
    W_dec = unit(x[torch.randperm(len(x), generator=generator("signed", seed))[:n]])
    for _ in range(rounds):
        z = _signed_codes(x, W_dec, k)
        residual = x - z @ W_dec
        for j in range(n):
            rows = z[:, j].nonzero()[:, 0]
            if len(rows):
                error = residual[rows] + z[rows, j, None] * W_dec[j]
                W_dec[j] = torch.linalg.svd(error, full_matrices=False).Vh[0]
                residual[rows] = error - (error @ W_dec[j])[:, None] * W_dec[j]
    return W_dec


def _signed_codes(x: Float[Tensor, "rows d_in"], W_dec: Float[Tensor, "n d_in"], k: int) -> Float[Tensor, "rows n"]:
    """Signed codes by orthogonal matching pursuit."""
    chosen, residual, values = torch.zeros(len(x), 0, dtype=torch.int64), x, x[:, :0]
    for _ in range(k):
        along = (residual @ W_dec.T).abs().scatter(1, chosen, -1.0)
        chosen = torch.cat([chosen, along.argmax(1, keepdim=True)], 1)
        directions = W_dec[chosen]
        gram = directions @ directions.mT + 1e-6 * torch.eye(chosen.shape[1])
        values = torch.linalg.solve(gram, directions @ x[:, :, None])[..., 0]
        residual = x - (values[:, None] @ directions)[:, 0]
    return torch.zeros(len(x), len(W_dec)).scatter(1, chosen, values)

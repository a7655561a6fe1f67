"""Agreement of supports: by hand, a naive twin, chance, a matching with spare latents, and settings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import sae
from pipelines.config.config import parse
from pipelines.plan import plan
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.encoders.fista import Config as Fista
from sae.metric import Case, Evidence
from sae.metrics.support_agreement import Config, jaccard
from sae.source import Batch, Truth

OWN = Config(encoder={"kind": "own"})  # pyright: ignore
"""Compares with the transposed decoder as a layer, whose support on orthonormal rows is ``x > 0``."""
X = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 3.0, 0.0]])


def scored(d: Dictionary, x: Tensor, codes: Tensor | None = None, truth: Truth | None = None, metric: Config = OWN):
    batch = Batch(x, codes)
    return metric.score(Case(d, Evidence(batch, batch, truth))).scalars


def truth_of(directions: Tensor) -> Truth:
    return Truth(directions, torch.ones(len(directions), dtype=torch.bool), torch.full((len(directions),), 0.5))


def sparse(rows: int, n: int, p: float = 0.2, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (0.5 + torch.rand(rows, n, generator=g)) * (torch.rand(rows, n, generator=g) < p)


def test_by_hand():
    """A latent fires above 1.5: of the four samples the supports are {1} and {0, 1}, none twice, none and {0}, and
    {0, 1} twice."""
    d = replace(Relu.tied(torch.eye(3)), b_enc=torch.full((3,), -1.5))
    assert scored(d, X) == pytest.approx({"support_agreement": (1 / 2 + 1 + 0 + 1) / 4})
    both = {"support_agreement": 0.625, "support_truth": 0.625}
    assert scored(d, X, codes=X, truth=truth_of(torch.eye(3))) == pytest.approx(both)


def test_a_firing_latent_without_a_feature_is_in_no_true_support():
    """Two features, of which latents 1 and 0 are the directions, and a spare latent that fires in the first sample."""
    rows = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    x = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    found = scored(Relu.tied(rows), x, codes=x[:, :2], truth=truth_of(torch.eye(3)[:2]))
    assert found["support_truth"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_feature_without_a_latent_is_missed_and_one_that_is_not_represented_is_left_out():
    one = Relu.tied(torch.eye(3)[:1])
    x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert scored(one, x, x, truth_of(torch.eye(3)))["support_truth"] == pytest.approx((1 / 2 + 1) / 2)
    truth = replace(truth_of(torch.eye(3)), represented=torch.tensor([True, False, True]))
    assert scored(one, x, x, truth)["support_truth"] == pytest.approx(1)
    nothing = replace(truth, represented=torch.zeros(3, dtype=torch.bool))
    assert math.isnan(scored(one, x, x, nothing)["support_truth"])


def test_a_latent_that_writes_nothing_does_not_fire():
    d = Relu(
        torch.ones(3, 4), torch.cat([torch.eye(3), torch.zeros(1, 3)]), torch.tensor([-9.0] * 3 + [1]), X.new_zeros(3)
    )
    assert scored(d, torch.zeros(5, 3)) == {"support_agreement": 1}


@pytest.mark.parametrize("encoder", ["fista", "omp"])
def test_sets_in_a_loop_give_the_same(encoder: str):
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(12, 8, generator=g), dim=1)
    codes = sparse(700, 12)  # more than one block of the other encoder
    x = codes @ directions
    rows = torch.nn.functional.normalize(directions.repeat(2, 1)[:20] + 0.1 * torch.randn(20, 8, generator=g), dim=1)
    d = TopK(rows.T.contiguous(), rows, torch.zeros(20), torch.zeros(8), k=3)
    metric, truth = Config(encoder=encoder), truth_of(directions)  # pyright: ignore
    found = scored(d, x, codes, truth, metric)

    case = Case(d, Evidence(Batch(x, codes), Batch(x, codes), truth))
    feature_of = {int(j): i for i, j in enumerate(case.matching.latent) if j >= 0}
    other = d.with_encoder(
        encoder, sae.source.TensorSource(torch.cat([x, x[:180]]), heldout=0.2), **_raw(encoder, x, d)
    )
    agreement, true = 0.0, 0.0
    for z, a, c in zip(d.encode(x), other.encode(x), codes, strict=True):
        s, t = set(z.nonzero()[:, 0].tolist()), set(a.nonzero()[:, 0].tolist())
        agreement += len(s & t) / len(s | t) if s | t else 1
        mapped, active = {feature_of.get(j, ("spare", j)) for j in s}, set(c.nonzero()[:, 0].tolist())
        true += len(mapped & active) / len(mapped | active) if mapped | active else 1
    assert found == pytest.approx({"support_agreement": agreement / 700, "support_truth": true / 700}, abs=2e-3)
    assert 0.1 < found["support_agreement"] < 0.95 and 0.1 < found["support_truth"] < 0.95


def _raw(encoder: str, x: Tensor, d: Dictionary) -> dict[str, Any]:
    """The settings of the lasso in units of these samples, on which the metric measures its unit."""
    norm = float((x - d.b_dec).norm(dim=1).mean())
    return {"units": "raw", "l1": 0.01 * norm, "threshold": 0.03 * norm} if encoder == "fista" else {}


def test_the_encoder_that_a_dictionary_has_agrees_with_itself():
    g = torch.Generator().manual_seed(1)
    d = Relu.tied(torch.nn.functional.normalize(torch.randn(16, 8, generator=g), dim=1))
    settings: dict[str, Any] = {"units": "raw", "l1": 0.05, "threshold": 0.1}
    lasso = d.with_encoder("fista", **settings)
    x = sparse(400, 8)
    assert scored(lasso, x, metric=Config(encoder=Fista(**settings))) == {"support_agreement": 1}
    assert scored(d, x, metric=Config(encoder=Fista(**settings)))["support_agreement"] < 0.7


def test_independent_supports_agree_by_chance():
    g = torch.Generator().manual_seed(2)
    a, b = torch.rand(2, 2000, 1000, generator=g) < 0.1
    assert float(jaccard(a, b).mean()) == pytest.approx(0.1 / 1.9, rel=0.03)


def test_an_encoder_is_named_or_given_with_its_settings():
    table = {"kind": "fista", "l1": 0.2}
    metric = Config(encoder=table)  # pyright: ignore
    assert metric == Config(encoder=Fista(l1=0.2)) != Config() == Config(encoder="fista")  # pyright: ignore
    assert Config(**metric.model_dump()) == metric and metric.model_dump()["encoder"]["l1"] == 0.2
    for wrong, words in (
        ("fistas", "did you mean 'fista'"),
        ({"l1": 0.2}, "kind is missing"),
        ({**table, "l": 1}, "'l'"),
    ):
        with pytest.raises(ValueError, match=words):
            Config(encoder=wrong)  # pyright: ignore


def test_it_is_asked_for_by_name_from_python_and_in_a_config():
    g = torch.Generator().manual_seed(3)
    d, x = Relu.tied(torch.eye(6)), torch.rand(60, 6, generator=g)
    assert "support_agreement" not in sae.score(d, x, features=torch.eye(6), codes=x)
    found = sae.score(d, x, features=torch.eye(6), codes=x, metrics=["support_agreement"])
    assert set(found) == {"support_agreement", "support_truth"} and found["support_truth"] == 1
    with pytest.raises(sae.UserError, match="needs activations without targets"):
        sae.score(d, x, targets=x, metrics=["support_agreement"])

    def keys(encoder: Any) -> set[str]:
        given: dict[str, Any] = {
            "name": "t",
            "source": {"kind": "independent", "n_features": 4, "d_in": 4, "probability": 0.2},
            "dictionary": {"kind": "topk", "n_latents": 4, "k": 1},
            "score": {"metrics": ["recovery", {"kind": "support_agreement", "encoder": encoder}]},
        }
        return {s.key for s in plan(parse(given)) if s.stage == "score"}

    assert keys("omp") == keys({"kind": "omp"}) and not keys("omp") & keys({"kind": "omp", "k": 3})
    with pytest.raises(sae.UserError, match=r"score.metrics.encoder = .*did you mean 'omp'"):
        keys("ompp")


def test_a_dictionary_of_two_widths_is_refused():
    d = Transcoder(torch.eye(4)[:, :3], torch.rand(3, 5), torch.zeros(3), torch.zeros(5))
    with pytest.raises(sae.UserError, match="reads 4 and writes 5"):
        scored(d, torch.rand(6, 4))

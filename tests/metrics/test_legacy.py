"""Scores of other libraries: by hand, equal to their code where it is installed, and with their known defects."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.legacy import Config
from sae.metrics.reconstruction import Config as Reconstruction
from sae.source import Batch, Truth
from sae.toys.base import random_directions

EXPLAINED = ("ev_saebench", "ev_per_token", "ev_per_dimension", "ev_overcomplete", "fve_dictionary_learning")


def scores(d: Relu, x: torch.Tensor, features: torch.Tensor | None = None) -> dict[str, float]:
    batch = Batch(x)
    truth = None
    if features is not None:
        truth = Truth(features, torch.ones(len(features), dtype=torch.bool), torch.full((len(features),), torch.nan))
    case = Case(d, Evidence(batch, batch, truth))
    return {**Reconstruction().score(case).scalars, **Config().score(case).scalars}


def identity(d_in: int, scale: float = 1.0, bias: float = 0.0) -> Relu:
    """Reconstructs non-negative activations up to a factor and a constant."""
    return Relu(torch.eye(d_in), scale * torch.eye(d_in), torch.full((d_in,), bias), torch.full((d_in,), bias))


def constant(value: torch.Tensor) -> Relu:
    return Relu(torch.zeros(len(value), 3), torch.eye(3, len(value)), torch.zeros(3), value)


def noisy(d_in: int = 6, n_latents: int = 9) -> tuple[Relu, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    W = random_directions(n_latents, d_in, g)
    x = torch.randn(500, d_in, generator=g) * torch.arange(1, d_in + 1) + torch.linspace(-2, 3, d_in)
    return Relu(W.T.contiguous(), W / 2, torch.zeros(n_latents), x.mean(0)), x


def test_by_hand():
    """x = (4, 0) and (0, 2), x_hat half of it: e = (2, 0), (0, 1); the mean is (2, 1), the mean of all numbers 1.5."""
    s = scores(identity(2, scale=0.5), torch.tensor([[4.0, 0], [0, 2]]))
    error, power, squares = (4 + 1) / 2, (16 + 4) / 2, (8 + 2) / 2
    assert s["ev_saebench"] == pytest.approx(1 - error / (power - squares**2))
    assert s["ev_per_token"] == pytest.approx(1 - (4 / 5 + 1 / 5) / 2)
    assert s["ev_per_dimension"] == pytest.approx(1 - (2 / 4 + 0.5 / 1) / 2)
    assert s["ev_overcomplete"] == pytest.approx(1 - (5 / 4) / ((2.5**2 + 1.5**2 + 1.5**2 + 0.5**2) / 4))
    assert s["fve_dictionary_learning"] == pytest.approx(1 - (1 + 0.25) / (4 + 1))
    assert s["nmse_openai"] == pytest.approx(1 / 4) and s["l2_ratio"] == 0.5 and s["token_cosine"] == 1
    assert s["l0_positive"] == 1 and s["dead_under_10"] == 1 and s["dead"] == 0


def test_perfect():
    s = scores(identity(4), torch.rand(50, 4))
    assert all(s[name] == 1 for name in EXPLAINED) and s["nmse_openai"] == 0
    assert s["l2_ratio"] == pytest.approx(1) and s["token_cosine"] == pytest.approx(1) and s["dead_under_10"] == 0


def test_a_constant_at_the_mean_explains_nothing_except_in_two_variants():
    """R^2 is 0, and so are three of the variants; those of SAEBench and overcomplete are not."""
    x = torch.randn(2000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 4
    x += torch.tensor([1.0, 0, 0, 0, -0.5, 0])
    s = scores(constant(x.mean(0)).to(dtype=torch.float64), x)
    for name in ("explained_variance", "fve_dictionary_learning", "ev_per_dimension", "ev_per_token"):
        assert s[name] == pytest.approx(0, abs=1e-9), name
    power, square = float(x.square().sum(1).mean()), float(x.square().mean()) ** 2
    assert s["ev_saebench"] == pytest.approx(1 - float(x.var(0, correction=0).sum()) / (power - square))
    assert min(s["ev_saebench"], s["ev_overcomplete"]) > 0.7 and s["token_cosine"] > 0.7


def test_the_variant_of_saebench_depends_on_the_unit():
    d, x = noisy()
    big, other = scores(d, x), scores(Relu(d.W_enc, d.W_dec, d.b_enc / 9, d.b_dec / 9), x / 9)
    assert other["explained_variance"] == pytest.approx(big["explained_variance"], abs=1e-5)
    assert abs(other["ev_saebench"] - big["ev_saebench"]) > 0.1


def test_one_variant_ignores_a_constant_bias():
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(2))
    s = scores(identity(3, bias=1.0), x)  # x_hat = (x - 1 + 1) + 1
    assert s["fve_dictionary_learning"] == pytest.approx(1) and s["explained_variance"] < -5
    assert s["ev_per_dimension"] < -5 and s["nmse_openai"] > 1


def test_rows_near_the_mean_sink_the_mean_of_ratios():
    """Samples reconstructed with a small error, and one near the mean: R^2 stays high."""
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(3))
    centred = torch.cat([x, 2 * x.mean(0) - x, x.mean(0)[None] + 1e-3])
    s = scores(Relu(torch.eye(2), torch.eye(2), torch.full((2,), -0.02), torch.zeros(2)), centred)
    assert s["explained_variance"] > 0.99 and s["ev_per_token"] < -0.5


def test_one_variant_weighs_small_dimensions_as_much_as_large_ones():
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(4)) * torch.tensor([100.0, 0.01])
    first = Relu(torch.eye(2)[:, :1], torch.eye(2)[:1], torch.zeros(1), torch.zeros(2))
    s = scores(first, x)
    assert s["explained_variance"] == pytest.approx(1, abs=1e-6) and s["ev_per_dimension"] < -0.4


def test_the_ratio_of_norms_calls_an_unbiased_projection_shrunk_and_a_mean_hides_errors():
    x = torch.rand(100, 4, generator=torch.Generator().manual_seed(5))
    d = Relu(torch.eye(4, 2), torch.eye(2, 4), torch.zeros(2), torch.zeros(4))
    s = scores(d, x)
    assert s["shrinkage"] == pytest.approx(1) and s["l2_ratio"] < 0.85
    far = scores(constant(torch.full((4,), 100.0)), x + 100)
    assert far["nmse_openai"] < 1e-4 and far["token_cosine"] > 0.9999 and far["explained_variance"] < 0


def test_a_zero_reconstruction_has_cosine_zero():
    s = scores(identity(2, bias=0.0), torch.tensor([[1.0, 1], [-1, -1], [0, 0]]))
    assert s["token_cosine"] == pytest.approx(0.5) and s["l2_ratio"] == pytest.approx(0.5)


def test_latents_that_point_away_match_and_missing_latents_cost_nothing():
    eye, x = torch.eye(4), torch.rand(20, 4)
    turned = scores(Relu.tied(-eye), x, eye)
    assert turned["mcc_absolute"] == 1 == turned["uniqueness_absolute"]
    assert scores(Relu.tied(eye[:1]), x, eye)["mcc_absolute"] == 1
    copies = scores(Relu.tied(eye.repeat(2, 1)), x, eye)
    assert copies["mcc_absolute"] == 1 and copies["uniqueness_absolute"] == 0.5


def test_random_directions_score_the_known_null():
    """512 random directions against 512 in 256 dimensions: .192 (the signed mcc has .180)."""
    g = torch.Generator().manual_seed(6)
    f, w = random_directions(512, 256, g), random_directions(512, 256, g)
    assert scores(Relu.tied(w), torch.rand(20, 256), f)["mcc_absolute"] == pytest.approx(0.192, abs=0.003)


def test_computed_only_on_request():
    import sae

    d, x = noisy()
    assert "ev_saebench" not in sae.score(d, x) and set(sae.score(d, x, metrics=["legacy"])) >= set(EXPLAINED)
    with pytest.raises(ValueError, match="'legcy' is not a known kind of metrics: did you mean 'legacy'"):
        sae.score(d, x, metrics=["legcy"])
    with pytest.raises(ValueError, match="metrics: 'firing' needs codes and truth, which is not given"):
        sae.score(d, x, metrics=["firing"])


# The code of the other libraries


@pytest.mark.peer("dictionary_learning")
def test_equals_dictionary_learnings_evaluation():
    from dictionary_learning import evaluation

    d, x = noisy()

    class Theirs:
        dict_size, activation_dim = d.n_latents, d.d_in

        def __call__(self, rows: torch.Tensor, output_features: bool) -> tuple[torch.Tensor, torch.Tensor]:
            z = d.encode(rows)
            return d.decode(z), z

    theirs = evaluation.evaluate(Theirs(), iter([x]))
    ours = scores(d, x)
    names = {"fve_dictionary_learning": "frac_variance_explained", "l2_ratio": "l2_ratio", "token_cosine": "cossim"}
    names |= {"l0": "l0", "shrinkage": "relative_reconstruction_bias", "l1_norm": "l1_loss"}
    for name, their in names.items():
        assert ours[name] == pytest.approx(theirs[their], rel=1e-4), name
    assert 1 - ours["dead"] == theirs["frac_alive"]


@pytest.mark.peer("overcomplete")
def test_equals_overcompletes_r2():
    found = importlib.util.find_spec("overcomplete")
    assert found is not None and found.origin is not None
    # The file alone: the package draws in figures of an older matplotlib.
    spec = importlib.util.spec_from_file_location("r2", Path(found.origin).with_name("metrics.py"))
    assert spec is not None and spec.loader is not None
    metrics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metrics)
    d, x = noisy()
    with torch.no_grad():
        theirs = float(metrics.r2_score(x, d.decode(d.encode(x))))
    assert scores(d, x)["ev_overcomplete"] == pytest.approx(theirs, rel=1e-4)


@pytest.mark.peer("sparsify")
def test_equals_the_fvu_of_sparsify():
    """Its fvu, error over squares about the batch mean, equals ours if the batch is the whole split."""
    import sparsify

    x = noisy()[1]
    theirs = sparsify.SparseCoder(6, sparsify.SparseCoderConfig(num_latents=9, k=9, activation="topk"))
    with torch.no_grad():
        theirs.b_dec.copy_(x.mean(0))
        fvu, W_enc = float(theirs(x).fvu), theirs.encoder
        d = Relu(W_enc.weight.T.contiguous(), theirs.W_dec, W_enc.bias, theirs.b_dec)
    assert scores(d, x)["fvu"] == pytest.approx(fvu, rel=1e-4)

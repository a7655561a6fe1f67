"""Dictionary learning recovers features from few samples, and matches its references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.baselines.dictionary_learning import Config, Learner
from sae.metrics.recovery import assigned
from sae.numerics.matching import Matching, cosines, unit
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import lasso, lasso_multiply_adds
from sae.source import Source, TensorSource
from sae.sources.correlated import Config as Correlated
from sae.sources.features import Config as Features
from sae.toys.base import random_directions

SMALL = Features(n_features=24, d_in=16, activity={"kind": "fixed", "k": 2}, n_train=800)
ONLINE = Config(n_latents=24, n_samples=800, rounds=10, batch_size=64, l1=0.05, units="raw")
BATCH = ONLINE.model_copy(update={"mode": "batch", "rounds": 80})


def matched(source: Source, W_dec: Tensor) -> float:
    assert source.truth is not None
    return assigned(Matching.of(source.truth.directions, source.truth.represented, W_dec))["mcc"]


def objective(x: Tensor, W_dec: Tensor, l1: float) -> float:
    """Mean objective per sample, with codes from a converged lasso."""
    z = lasso(x @ W_dec.T - l1, W_dec, 500, 1e-6)
    return float((0.5 * (x - z @ W_dec).square().sum(1) + l1 * z.sum(1)).mean())


@pytest.mark.parametrize("start", ["data", "random"])
@pytest.mark.parametrize("config", [ONLINE, ONLINE.model_copy(update={"update": "descent"}), BATCH])
def test_it_finds_the_features_of_a_few_hundred_rows(config: Config, start: str):
    source = SMALL.build()
    d = config.model_copy(update={"start": start}).fit(source, 0)
    assert matched(source, d.W_dec) > 0.8
    assert matched(source, random_directions(24, 16, generator("null"))) < 0.55


def test_it_is_read_with_the_penalty_that_it_was_learned_with():
    d = BATCH.fit(SMALL.build(), 0)
    assert d.l1 == pytest.approx(0.05) and torch.equal(d.b_dec, torch.zeros(16))
    ends = BATCH.model_copy(update={"rounds": 4, "debiased": 2, "debiased_l1": 0.1})
    assert ends.fit(SMALL.build(), 0).l1 == pytest.approx(0.05)


def test_the_penalty_is_in_units_of_the_mean_norm():
    x = 40 * SMALL.build().at_most(800, "train").acts
    d = Config(n_latents=24, l1=0.1, rounds=1).fit(TensorSource(x), 0)
    rows = TensorSource(x).at_most(12_000, "train").acts
    assert d.l1 == pytest.approx(0.1 * float(rows.norm(dim=-1).mean()), rel=1e-5)


def test_scale_of_the_rows_changes_no_direction():
    x = SMALL.build().at_most(800, "train").acts
    config = Config(n_latents=24, l1=0.05, rounds=2, batch_size=64, tolerance=0)
    one, other = (config.fit(TensorSource(scale * x), 0).W_dec for scale in (1, 64))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


def test_the_objective_is_scikit_learns():
    """From the same start near the truth, where there is one optimum, all reach the same objective."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    source, l1 = SMALL.build(), 0.05
    x = source.at_most(800, "train").acts
    start = unit(source.truth.directions + 0.15 * torch.randn(24, 16, generator=generator("start")))
    theirs = MiniBatchDictionaryLearning(
        24,
        alpha=l1,
        batch_size=64,
        max_iter=8,
        max_no_improvement=None,
        tol=0.0,
        fit_algorithm="cd",
        positive_code=True,
        dict_init=start.double().numpy(),
        random_state=0,
    ).fit(x.double().numpy())
    reference = objective(x, unit(torch.from_numpy(theirs.components_).float()), l1)
    assert reference < 0.8 * objective(x, start, l1)
    for config in (ONLINE, ONLINE.model_copy(update={"update": "descent"}), BATCH):
        batch = config.mode == "batch"
        learner = Learner(start, config.model_copy(update={"rounds": 30 if batch else 8}))
        learner.run_batch(x, l1) if batch else learner.run_online(x, l1, 0)
        assert objective(x, learner.W_dec, l1) == pytest.approx(reference, rel=0.015)


def test_batch_stands_still_where_a_round_changes_nothing():
    """At convergence the directions are the least squares solution for the codes (method of optimal directions)."""
    source = SMALL.build()
    config = BATCH.model_copy(update={"rounds": 400, "tolerance": 0.0})
    d = config.fit(source, 0)
    assert 10 <= d.card["rounds"] < 400
    x = source.at_most(800, "train").acts
    z = lasso(x @ d.W_dec.T - d.l1, d.W_dec, 2000, 1e-7)
    again = torch.linalg.lstsq(z, x).solution
    torch.testing.assert_close(again / again.norm(dim=1, keepdim=True), d.W_dec, atol=2e-3, rtol=0)


def test_momentum_comes_sooner_to_the_same_place():
    source = SMALL.build()
    x = source.at_most(800, "train").acts
    few, many = BATCH.model_copy(update={"rounds": 25}), BATCH.model_copy(update={"rounds": 400})
    plain, fast, last = (
        objective(x, config.fit(source, 0).W_dec, 0.05)
        for config in (few, few.model_copy(update={"momentum": 0.7}), many)
    )
    assert fast == pytest.approx(last, rel=0.01) and plain - last > 2 * abs(fast - last)


def test_without_shrinkage_the_truth_stays_where_it_is():
    """Unshrunk codes of the true directions explain the data exactly; with shrunk codes other directions fit better."""
    source = SMALL.build()
    x, truth = source.at_most(800, "train").acts, source.truth.directions
    learner = Learner(truth, BATCH.model_copy(update={"rounds": 50, "debiased": 50, "standstill": 0.0}))
    learner.run_debiased(x, 0.05, torch.zeros(len(x), 24))
    stays = matched(source, learner.W_dec)
    learner.W_dec = truth
    learner.run_batch(x, 0.05)
    goes = matched(source, learner.W_dec)
    assert stays > 0.995 and goes < stays


def test_what_is_of_the_other_mode_is_refused():
    with pytest.raises(ValueError, match=r'momentum = 0\.9: needs mode = "batch"'):
        Config(n_latents=4, momentum=0.9)
    with pytest.raises(ValueError, match=r"debiased_l1 = 0\.1: has no effect with debiased = 0"):
        Config(n_latents=4, mode="batch", debiased_l1=0.1)


def test_each_pass_of_descent_lowers_the_error_of_its_codes():
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(200, 5, generator=g), torch.relu(torch.randn(200, 8, generator=g))
    learner = Learner(random_directions(8, 5, g), ONLINE)
    errors = []
    for _ in range(4):
        errors.append(float((x - z @ learner.W_dec).square().sum()))
        learner.descend(z.T @ z, z.T @ x)
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_a_direction_that_no_row_uses_takes_what_a_row_is_missing():
    x = torch.eye(3).repeat(4, 1)
    start = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])
    learner = Learner(start, BATCH.model_copy(update={"rounds": 3}))
    learner.run_batch(x, 0.05)
    torch.testing.assert_close(learner.W_dec, torch.eye(3), atol=1e-4, rtol=0)
    online = Learner(start, ONLINE.model_copy(update={"batch_size": 6, "rounds": 3}))
    online.run_online(x, 0.05, 0)
    torch.testing.assert_close(online.W_dec, torch.eye(3), atol=1e-3, rtol=0)


def test_more_latents_than_rows_begin_at_rows_all_the_same():
    d = Config(n_latents=50, rounds=1).fit(Features(**{**SMALL.model_dump(), "n_train": 20}).build(), 0)
    torch.testing.assert_close(d.W_dec.norm(dim=1), torch.ones(50))


def test_what_was_spent_is_on_the_card():
    d = ONLINE.model_copy(update={"n_samples": 300}).fit(SMALL.build(), 0)
    spent = d.card["spent"]
    assert (spent["rows"], spent["samples"]) == (300, 3000)
    assert spent["multiply_adds"] > 3000 * lasso_multiply_adds(d.W_dec, 100)
    short = BATCH.model_copy(update={"rounds": 3}).fit(SMALL.build(), 0).card
    assert short["rounds"] == 3 and short["spent"]["samples"] == 2400
    longer = BATCH.model_copy(update={"rounds": 3, "debiased": 2}).fit(SMALL.build(), 0).card
    assert longer["rounds"] == 3 and longer["spent"]["samples"] == 4000
    assert longer["spent"]["multiply_adds"] > 2 * short["spent"]["multiply_adds"]


def test_rows_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"all \d+ training samples are zero"):
        ONLINE.fit(TensorSource(torch.zeros(50, 4)), 0)


@pytest.mark.slow
def test_sharkeys_toy_from_twelve_thousand_rows():
    """Means over three data seeds; the reference (one data seed, unsigned cosines) is .866 .975 .852 .81."""
    settings = {"n_latents": 512, "l1": 0.1, "units": "raw"}
    found: dict[str, list[list[float]]] = {"descent": [], "solve": []}
    for update, forget in (("descent", 0.5), ("solve", 2.0)):
        for seed in (0, 1, 2):
            source = Correlated(seed=seed).build()
            W_dec = Config(update=update, forget=forget, **settings).fit(source, 0).W_dec
            cosine = cosines(source.truth.directions, W_dec)
            best = cosine.amax(1)
            mcc = assigned(Matching.of(source.truth.directions, source.truth.represented, W_dec))["mcc"]
            recovered = float((best > 0.9).float().mean())
            found[update].append([float(best.mean()), float(cosine.amax(0).mean()), mcc, recovered])
    plain, better = (torch.tensor(found[update]).mean(0) for update in ("descent", "solve"))
    print(found, plain.tolist(), better.tolist())
    assert float((plain - torch.tensor([0.866, 0.975, 0.852, 0.81])).abs().max()) < 0.02
    assert float((better - torch.tensor([0.94, 0.97, 0.93, 0.90])).min()) > 0

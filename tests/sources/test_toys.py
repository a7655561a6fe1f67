"""Toy sources draw from the distributions that they state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae.numerics.seeds import generator
from sae.sources.correlated import Config as Correlated
from sae.sources.features import Config as Features
from sae.sources.independent import Config as Independent
from sae.toys.base import PIECE, ToyConfig


@pytest.mark.parametrize(
    "config",
    [
        Independent(n_features=40, d_in=16, probability=0.05),
        Independent(n_features=40, d_in=16, probability=0.05, frequencies="zipf", values="lognormal"),
        Independent(n_features=40, d_in=16, probability=0.05, frequencies="geometric", ratio=0.95, noise=0.1),
    ],
)
def test_firing_rates_are_those_of_the_truth(config: Independent):
    source = config.build()
    codes = source.batch(0, 60_000).codes
    rate = (codes > 0).float().mean(0)
    error = (source.truth.probability * (1 - source.truth.probability) / 60_000).sqrt()
    assert float(((rate - source.truth.probability).abs() / error).max()) < 5
    assert abs(float(source.truth.probability.mean()) - 0.05) < 1e-6


def test_frequency_shapes():
    zipf = Independent(n_features=4, d_in=2, probability=0.1, frequencies="zipf", exponent=1).build().truth.probability
    torch.testing.assert_close(zipf / zipf[0], torch.tensor([1, 1 / 2, 1 / 3, 1 / 4]))
    geometric = Independent(n_features=4, d_in=2, probability=0.1, frequencies="geometric", ratio=0.5).build()
    torch.testing.assert_close(geometric.truth.probability / geometric.truth.probability[0], 0.5 ** torch.arange(4.0))


def test_a_probability_above_one_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"probability = 0.5: .* feature would fire with probability 12"):
        Independent(n_features=40, d_in=16, probability=0.5, frequencies="zipf", exponent=2).build()


@pytest.mark.parametrize(
    ("values", "mean", "second"),
    [
        ("uniform", 0.5, 1 / 3),
        ("constant", 1.0, 1.0),
        ("half_normal", (2 / torch.pi) ** 0.5, 1.0),
        ("exponential", 1.0, 2.0),
        ("lognormal", 2.718281828 ** (0.25**2 / 2), 2.718281828 ** (2 * 0.25**2)),
    ],
)
def test_value_distributions_have_their_moments(values: str, mean: float, second: float):
    codes = Independent(n_features=50, d_in=4, probability=1.0, values=values).build().batch(0, 4000).codes
    assert abs(float(codes.mean()) - mean) < 0.02
    assert abs(float(codes.square().mean()) - second) < 0.05


def test_noise_has_its_deviation_and_activations_are_the_sum_of_features():
    quiet = Independent(n_features=9, d_in=5, probability=0.2).build()
    batch = quiet.batch(3, 100)
    torch.testing.assert_close(batch.acts, batch.codes @ quiet.truth.directions)
    loud = Independent(n_features=9, d_in=5, probability=0.2, noise=0.3).build()
    batch = loud.batch(3, 20_000)
    assert abs(float((batch.acts - batch.codes @ loud.truth.directions).std()) - 0.3) < 0.01


def test_sharkeys_generator_has_the_facts_of_the_specification():
    config = Correlated()
    source = config.build()
    factor = source.factor.double()
    covariance = factor @ factor.T
    assert 9.0 < float(covariance.diagonal().mean()) < 9.9  # about 9.4 at 512 features
    off = covariance[~torch.eye(512, dtype=torch.bool)]
    assert float(off.min()) >= -1e-4 and float(off.max()) <= 1 + 1e-4 and abs(float(off.mean()) - 0.5) < 0.01
    codes = source.batch(0, 20_000).codes
    active = (codes > 0).sum(-1).float()
    assert float(active.min()) >= 1  # a row in which nothing fires is filled
    assert abs(float(active.mean()) - 5.0) < 0.1
    rate = (codes > 0).float().mean(0)
    expected = 0.99 ** torch.arange(512.0)
    assert (
        abs(float(rate[:64].mean() / rate[-64:].mean()) / float(expected[:64].mean() / expected[-64:].mean()) - 1)
        < 0.25
    )
    assert float((source.truth.probability - rate).abs().max()) < 0.01


def test_rows_carry_the_correlations_of_the_matrix_and_one_z_a_batch_does_not():
    def agreement(per_batch_z: bool) -> float:
        """The correlation between the features' firing correlations and the covariance that they are drawn from."""
        source = Correlated(n_features=48, d_in=8, n_active=8, ratio=1.0, per_batch_z=per_batch_z).build()
        pair = torch.triu_indices(48, 48, offset=1)
        on = (source.batch(0, 60_000).codes > 0).double()
        observed = torch.corrcoef(on.T)[pair[0], pair[1]].nan_to_num()
        covariance = (source.factor @ source.factor.T).double()[pair[0], pair[1]]
        return float(torch.corrcoef(torch.stack([observed, covariance]))[0, 1])

    assert agreement(per_batch_z=False) > 0.5
    assert abs(agreement(per_batch_z=True)) < 0.12


def test_prepared_and_built_sources_are_the_same(tmp_path: Path):
    for name, config in {
        "i": Independent(n_features=9, d_in=5, probability=0.2),
        "c": Correlated(n_features=9),
    }.items():
        config.prepare(tmp_path / name, lambda done, total, unit: None, "cpu")
        a, b = config.open(tmp_path / name, "cpu").batch(4, 10, "test"), config.build().batch(4, 10, "test")
        assert torch.equal(a.acts, b.acts) and torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("values", ["uniform", "constant", "half_normal", "lognormal", "exponential"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_independent_rows_are_what_torch_alone_draws(values: str, noise: float):
    """Compiled draws change no bit; all results on toy data depend on these numbers."""
    source = Independent(n_features=50, d_in=12, probability=0.1, values=values, noise=noise).build()
    batch = source.batch(3, 65)
    draw = generator("independent", 0, "train", 3)
    codes = {
        "uniform": lambda: torch.rand(65, 50, generator=draw),
        "constant": lambda: torch.ones(65, 50),
        "half_normal": lambda: torch.randn(65, 50, generator=draw).abs(),
        "lognormal": lambda: (torch.randn(65, 50, generator=draw) * 0.25).exp(),
        "exponential": lambda: torch.empty(65, 50).exponential_(generator=draw),
    }[values]()
    codes *= torch.rand(65, 50, generator=draw) < torch.full((50,), 0.1)
    acts = codes @ source.truth.directions
    if noise:
        acts += noise * torch.randn(acts.shape, generator=draw)
    assert torch.equal(batch.codes, codes) and torch.equal(batch.acts, acts)


@pytest.mark.parametrize("per_batch_z", [False, True])
@pytest.mark.parametrize("n_active", [0.5, 5.0])
def test_correlated_rows_are_what_torch_alone_draws(per_batch_z: bool, n_active: float):
    config = Correlated(n_features=50, d_in=12, n_active=n_active, per_batch_z=per_batch_z, noise=0.1)
    source = config.build()
    batch = source.batch(3, 65)
    draw = generator("correlated", 0, "train", 3)
    z = torch.randn(1 if per_batch_z else 65, 50, generator=draw) @ config.tensors()["factor"].T
    p = torch.special.ndtr(z) * 0.99 ** torch.arange(50)
    p *= n_active / 50 / p.mean(-1, keepdim=True)
    codes = torch.rand(65, 50, generator=draw)
    codes *= torch.rand(65, 50, generator=draw) < p
    empty = (codes == 0).all(-1).nonzero()[:, 0]
    codes[empty, torch.randint(50, (len(empty),), generator=draw)] = 1.0
    acts = codes @ source.truth.directions
    acts += 0.1 * torch.randn(acts.shape, generator=draw)
    assert torch.equal(batch.codes, codes) and torch.equal(batch.acts, acts)
    assert len(empty) > 0 or n_active > 1


POOLS = {
    "independent": lambda **more: Independent(n_features=9, d_in=5, probability=0.2, noise=0.1, **more),
    "correlated": lambda **more: Correlated(n_features=9, d_in=5, n_active=2, noise=0.1, **more),
    "features": lambda **more: Features(n_features=9, d_in=5, activity={"kind": "fixed", "k": 2}, **more),
}


@pytest.mark.parametrize("make", POOLS.values(), ids=POOLS)
def test_a_limited_source_trains_on_the_same_rows_in_every_epoch_and_in_another_order(make: Callable[..., ToyConfig]):
    source = make(n_train=60).build()
    assert source.n_rows == {"train": 60, "choose": None, "test": None}
    first, second = (torch.cat([source.batch(20 * e + i, 3).acts for i in range(20)]) for e in (0, 1))
    assert not torch.equal(first, second) and len(first.unique(dim=0)) == 60
    assert torch.equal(first.unique(dim=0), second.unique(dim=0))
    batch = source.at_most(1000, "train", step=7)
    assert torch.equal(batch.acts.unique(dim=0), first.unique(dim=0))
    assert float((batch.acts - batch.codes @ source.truth.directions).abs().max()) < 0.6  # each row with its codes


@pytest.mark.parametrize("make", POOLS.values(), ids=POOLS)
def test_a_limited_source_is_held_out_as_the_endless_one_is(make: Callable[..., ToyConfig]):
    limited, endless = make(n_train=60).build(), make().build()
    for split in ("choose", "test"):
        assert torch.equal(limited.batch(3, 20, split).acts, endless.batch(3, 20, split).acts)
    trained = {tuple(row) for row in limited.at_most(60, "train").acts.tolist()}
    held_out = {tuple(row) for s in ("choose", "test") for row in limited.batch(0, 500, s).acts.tolist()}
    assert not trained & held_out


def test_a_larger_pool_begins_with_the_rows_of_a_smaller_one():
    small, large = (POOLS["features"](n_train=n).build().rows for n in (100, PIECE + 50))
    assert len(large.acts) == PIECE + 50 == len(large.acts.unique(dim=0))
    assert torch.equal(large.acts[:100], small.acts) and torch.equal(large.codes[:100], small.codes)


def test_a_source_without_a_limit_is_written_down_as_it_always_was(tmp_path: Path):
    endless, limited = POOLS["features"](), POOLS["features"](n_train=60)
    assert "n_train" not in endless.model_dump(mode="json")
    assert limited.model_dump(mode="json") == {**endless.model_dump(mode="json"), "n_train": 60}
    limited.prepare(tmp_path, lambda done, total, unit: None, "cpu")
    assert torch.equal(limited.open(tmp_path, "cpu").batch(2, 30).acts, limited.build().batch(2, 30).acts)


def test_no_rows_to_train_on_are_refused():
    with pytest.raises(ValueError, match="n_train"):
        POOLS["features"](n_train=0)


def test_strengths_of_the_correlated_toy_follow_their_law():
    laws = {v: Correlated(n_features=40, d_in=20, n_active=3, values=v) for v in ("uniform", "lognormal", "binary")}
    codes = {v: c.build().batch(3, 20_000).codes for v, c in laws.items()}
    active = {v: c[(c > 0) & (c != 1)] for v, c in codes.items()}  # 1 fills empty rows
    assert set(codes["binary"].unique().tolist()) == {0.0, 1.0}
    assert float(active["uniform"].mean()) == pytest.approx(0.5, abs=0.01) and float(active["uniform"].max()) < 1
    log = active["lognormal"].log()
    assert float(log.mean()) == pytest.approx(0, abs=0.01) and float(log.std()) == pytest.approx(0.25, abs=0.01)
    share = {v: float((c > 0).float().mean()) for v, c in codes.items()}
    assert share["binary"] == pytest.approx(share["uniform"], rel=0.03) == pytest.approx(share["lognormal"], rel=0.03)
    assert "values" not in laws["uniform"].model_dump() and laws["binary"].model_dump()["values"] == "binary"


def test_the_noise_of_the_correlated_toy_is_what_is_asked_for_and_held_out_rows_have_it_too():
    quiet, loud = (Correlated(n_features=40, d_in=20, n_active=3, noise=s, values="binary").build() for s in (0, 0.1))
    for split in ("train", "test"):
        a, b = quiet.batch(2, 5000, split), loud.batch(2, 5000, split)
        assert torch.equal(a.codes, b.codes)
        assert float((b.acts - a.acts).std()) == pytest.approx(0.1, rel=0.01)

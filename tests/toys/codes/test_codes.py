"""Nonlinear codes against their stated formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.config import parse
from sae.sources.code import Coded, Config
from sae.toys.codes.circle import bump
from sae.toys.codes.floor import decode_digit as from_floor
from sae.toys.codes.scenario import decode_scenario as from_scenario

Table = dict[str, object]
ROWS = 40_000


def build(code: Table, **more: object) -> Coded:
    source = Config(code=code, **more).build()
    assert isinstance(source, Coded)
    return source


@pytest.mark.parametrize(("margin", "sigma"), [(1.0, 1.0), (2.0, 1.0), (0.5, 0.5), (10.0, 1.0)])
def test_a_scenario_is_mistaken_with_the_probability_of_the_upper_tail(margin: float, sigma: float):
    source = build({"kind": "scenario", "margin": margin, "sigma": sigma})
    batch = source.batch(0, ROWS)
    mistaken = float((from_scenario(batch.acts[:, 0], margin)[0] != batch.labels["scenario"]).double().mean())
    tail = 0.5 * math.erfc(margin / sigma / math.sqrt(2))
    assert abs(mistaken - tail) <= 4.5 * math.sqrt(tail * (1 - tail) / ROWS) + 1e-9
    assert source.config.code.error == pytest.approx(tail, rel=1e-3)


def test_with_a_large_offset_both_quantities_are_decoded():
    batch = build({"kind": "scenario", "margin": 10.0}).batch(0, ROWS)
    scenario, x1, x2 = from_scenario(batch.acts[:, 0], 10.0)
    assert torch.equal(scenario, batch.labels["scenario"])
    first = scenario == 0
    assert bool((x2[first] == 0).all()) and bool((x1[~first] == 0).all())
    assert abs(float(x1[first].std()) - 1) < 0.02 and abs(float(x2[~first].std()) - 1) < 0.02
    assert abs(float(x1[first].mean())) < 0.04 and abs(float(first.double().mean()) - 0.5) < 0.02


def test_a_scenario_is_exactly_the_sum_of_its_codes_whose_means_are_the_offset():
    for more in ({"margin": 1.0}, {"exclusive": True}):
        source = build({"kind": "scenario", **more})
        batch = source.batch(0, ROWS)
        assert source.truth is not None and source.truth.kind == "exact"
        torch.testing.assert_close(batch.codes @ source.truth.directions, batch.acts)
        assert not bool((batch.codes > 0).all(1).any())
        share = (batch.codes > 0).double().mean(0)
        torch.testing.assert_close(share, source.truth.probability.double(), atol=0.012, rtol=0)
    wide = build({"kind": "scenario", "margin": 10.0})
    batch = wide.batch(0, ROWS)
    assert wide.truth is not None and wide.truth.directions[:, 0].tolist() == [-1, 1]
    assert abs(float(batch.codes[batch.labels["scenario"] == 0, 0].mean()) - 10) < 0.04


def test_the_exclusive_code_determines_the_scenario_without_error():
    source = build({"kind": "scenario", "exclusive": True})
    batch = source.batch(0, ROWS)
    assert torch.equal(batch.codes[:, 1] > 0, batch.labels["scenario"] == 1)
    assert source.truth is not None and source.truth.directions[:, 0].tolist() == [1, -1]
    assert source.config.code.error == 0


@settings(max_examples=20, deadline=None)
@given(levels=st.integers(2, 200), seed=st.integers(0, 100))
def test_both_numbers_of_a_floor_code_are_decoded(levels: int, seed: int):
    batch = build({"kind": "floor", "levels": levels}, seed=seed).batch(0, 500)
    t = batch.acts[:, 0]
    assert float(t.min()) >= 0 and float(t.max()) <= 1
    digit, y = from_floor(t.double(), levels)
    sure = ((y % 0.5) > 1e-3) & ((y % 0.5) < 0.499)  # not where rounding to float32 decides
    assert int(sure.sum()) > 450
    assert torch.equal(digit[sure], batch.labels["x"][sure])
    assert torch.equal((y >= 0.5).long()[sure], batch.labels["y"][sure])


def test_the_two_numbers_of_a_floor_code_are_independent_and_uniform():
    labels = build({"kind": "floor", "levels": 4}).batch(0, ROWS).labels
    joint = torch.stack([(labels["x"] == x) & (labels["y"] == y) for x in range(4) for y in range(2)])
    torch.testing.assert_close(joint.double().mean(1), torch.full((8,), 1 / 8).double(), atol=0.01, rtol=0)


def test_a_bump_by_hand():
    """Four features; at l = 2/3 a bump reaches a third of the half-circle, so only the nearest are active."""
    x = bump(torch.tensor([0.0, math.pi / 4, -math.pi / 2, 7 * math.pi / 4]), 4, 2 / 3)
    side = math.cos(math.pi / 4 / (2 / 3))
    expected = [[1, 0, 0, 0], [side, side, 0, 0], [0, 0, 0, 1], [side, 0, 0, side]]
    torch.testing.assert_close(x, torch.tensor(expected), atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(points=st.integers(8, 40), turn=st.integers(0, 40), seed=st.integers(0, 100))
def test_a_bump_rotates_with_its_position(points: int, turn: int, seed: int):
    theta = 2 * math.pi * torch.rand(20, generator=torch.Generator().manual_seed(seed))
    turned = bump(theta + 2 * math.pi * turn / points, points, 0.5)
    torch.testing.assert_close(turned, bump(theta, points, 0.5).roll(turn, 1), atol=1e-4, rtol=1e-4)


def test_circles_lie_in_separate_planes_and_their_samples_are_circles():
    code = {"kind": "circle", "circles": 3, "points": 48, "width": 0.5, "placed": "plane", "probability": 0.5}
    source = build(code, d_in=10)
    planes = source.subspaces
    assert planes is not None and planes.shape == (3, 2, 10)
    flat = planes.flatten(0, 1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(6), atol=1e-5, rtol=0)
    batch = source.batch(0, 2000)
    torch.testing.assert_close(batch.acts @ flat.T @ flat, batch.acts, atol=1e-4, rtol=0)
    radius = (batch.acts @ planes[1].T).norm(dim=1)
    is_on = sum(batch.labels[f"circle_1_bin_{b}"] for b in range(8))
    assert set(is_on.tolist()) == {0, 1} and abs(float(is_on.double().mean()) - 0.5) < 0.06
    assert float(radius[is_on == 0].max()) < 1e-4
    on = radius[is_on == 1]
    assert float((on.max() - on.min()) / on.mean()) < 0.02, "up to a ripple from the number of points"


def test_bins_are_arcs():
    code = {"kind": "circle", "points": 64, "width": 0.5, "placed": "plane", "bins": 4}
    batch = build(code).batch(0, 4000)
    angle = torch.atan2(batch.acts[:, 1], batch.acts[:, 0]).remainder(2 * math.pi)
    for b in range(4):
        in_bin = angle[batch.labels[f"circle_0_bin_{b}"] == 1]
        assert float(in_bin.min()) > b * math.pi / 2 - 0.02 and float(in_bin.max()) < (b + 1) * math.pi / 2 + 0.02


def test_a_hash_has_one_vector_for_each_combination_and_none_for_a_value():
    source = build({"kind": "hash", "attributes": 2, "values_each": 5, "width": 60})
    batch = source.batch(0, 4000)
    key = batch.labels["attribute_0"] * 5 + batch.labels["attribute_1"]
    means = torch.stack([batch.acts[key == k].mean(0) for k in range(25)])
    torch.testing.assert_close(means[key], batch.acts, atol=1e-5, rtol=0)
    gram = means @ means.T
    torch.testing.assert_close(gram.diagonal(), torch.ones(25), atol=1e-5, rtol=0)
    apart = torch.arange(25) // 5
    shared = gram[(apart[:, None] == apart) & ~torch.eye(25, dtype=torch.bool)]
    others = gram[apart[:, None] != apart]
    # If values had directions, combinations that share one would be similar; random cosines are 1 / sqrt 60.
    assert abs(float(shared.mean()) - float(others.mean())) < 4 * 0.13 / math.sqrt(50)


@pytest.mark.parametrize(
    ("code", "d_in", "dimensions"),
    [
        ({"kind": "scenario", "margin": 1.0}, None, 1),
        ({"kind": "floor"}, 5, 5),
        ({"kind": "circle", "circles": 2, "points": 6, "width": 0.5}, None, 12),
        ({"kind": "circle", "circles": 2, "points": 6, "width": 0.5, "placed": "plane"}, 4, 4),
        ({"kind": "hash", "width": 7}, 9, 9),
    ],
)
def test_embedding_keeps_lengths(code: Table, d_in: int | None, dimensions: int):
    source = build(code, d_in=d_in)
    assert source.d_in == dimensions
    plain, embedded = build(code).batch(3, 50).acts, source.batch(3, 50).acts
    torch.testing.assert_close(plain @ plain.T, embedded @ embedded.T, atol=1e-4, rtol=1e-4)


def test_a_code_has_what_it_provides_and_states_whether_it_is_nonlinear():
    for code in ({"kind": "scenario", "margin": 1.0}, {"kind": "floor"}, {"kind": "circle"}, {"kind": "hash"}):
        config = Config(code=code)
        source = config.build()
        batch = source.batch(0, 10)
        here = {"truth": source.truth, "codes": batch.codes, "subspaces": source.subspaces}
        assert config.provides == {"labels"} | {name for name, value in here.items() if value is not None}
        assert (config.nonlinear == "") == (code["kind"] == "scenario")
        choose, test = source.labelled() or ({}, {})
        assert choose.labels.keys() == test.labels.keys() == batch.labels.keys()
        assert not torch.equal(choose.acts[:100], test.acts[:100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code": {"kind": "scenario"}}, "source.code: margin is missing: give the offset"),
        (
            {"code": {"kind": "scenario", "margin": 1.0, "exclusive": True}},
            "source.code: margin = 1: unused by an exclusive code",
        ),
        (
            {"code": {"kind": "floor", "levels": 1}},
            "source.code.levels = 1: input should be greater than or equal to 2",
        ),
        (
            {"code": {"kind": "circle", "points": 4, "width": 0.5}},
            "width = 0.5: with points = 4 some positions activate no",
        ),
        (
            {"code": {"kind": "hash", "attributes": 9, "values_each": 9}},
            "attributes = 9: a table of 9\\^9 combinations in 16 dimensions",
        ),
        ({"code": {"kind": "hash"}, "d_in": 3}, "source: d_in = 3: the code 'hash' has 16 dimensions; give at least"),
        ({"code": {"kind": "hush"}}, "source.code: 'hush' is not a known kind: did you mean 'hash'"),
    ],
)
def test_an_impossible_code_is_an_error_of_one_line(change: Table, message: str):
    table = {"name": "x", "source": {"kind": "code", **change}, "dictionary": {"kind": "relu", "n_latents": 2, "l1": 1}}
    with pytest.raises(ValueError, match=message) as caught:
        parse(table)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [{"kind": "scenario", "margin": 2.0}, {"kind": "circle"}, {"kind": "hash"}])
def test_prepared_and_built_sources_are_the_same(tmp_path: object, code: Table):
    config = Config(code=code, d_in=20, noise=0.1)
    config.prepare(tmp_path / "s", lambda done, total, unit: None, "cpu")  # pyright: ignore
    opened, built = config.open(tmp_path / "s", "cpu"), config.build()  # pyright: ignore
    assert torch.equal(opened.batch(4, 10, "test").acts, built.batch(4, 10, "test").acts)

"""Features built from parts: samples follow the settings of each part, and reproduce systems of the literature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.config import parse
from sae.source import Source
from sae.sources.features import Config

Given = dict[str, Any]
ROWS = 40_000


def build(n_features: int, d_in: int, activity: Given, **more: Any) -> Source:
    return Config(n_features=n_features, d_in=d_in, activity=activity, **more).build()


def codes_of(source: Source, rows: int = ROWS) -> torch.Tensor:
    codes = source.batch(0, rows).codes
    assert codes is not None
    return codes


def agrees(source: Source, rows: int = ROWS, estimated: int = 0) -> bool:
    """Whether the probabilities of the truth are those of the samples, up to the errors of both."""
    assert source.truth is not None
    p = source.truth.probability
    rate = (codes_of(source, rows) > 0).float().mean(0)
    error = (p * (1 - p) * (1 / rows + (1 / estimated if estimated else 0))).sqrt().clamp_min(1e-6)
    return float(((rate - p).abs() / error)[(p > 0) & (p < 1)].max()) < 5


TREE = {"kind": "tree", "roots": 2, "branching": 3, "depth": 2, "probability": 0.4, "given": "conditional"}


@pytest.mark.parametrize(
    "activity",
    [
        {"kind": "independent", "probability": {"kind": "zipf", "mean": 0.1}},
        {"kind": "copula", "probability": 0.2, "correlation": {"kind": "random"}},
        {"kind": "correlated", "size": 2, "probability": 0.2},
        {"kind": "one_of", "size": 13, "probability": 0.9},
        {"kind": "fixed", "k": 4},
        TREE,
    ],
    ids=lambda a: a["kind"],
)
@pytest.mark.parametrize("values", [{"kind": "uniform"}, {"kind": "rectified_normal", "mu": 0.5, "sigma": 1.0}])
def test_rates_are_those_of_the_truth(activity: Given, values: Given):
    assert agrees(build(26, 8, activity, values=values))


def test_correlated_trees_have_estimated_probabilities():
    correlation = {"kind": "low_rank", "rank": 3, "scale": 0.4}
    source = build(
        26,
        8,
        TREE | {"correlation": correlation, "probability": 0.2, "exclusive": True, "scaled": True},
        values={"kind": "rectified_normal", "mu": 2, "sigma": 1.0},
    )
    assert agrees(source, estimated=4096 * 32)


def test_rows_are_the_sum_of_their_parts():
    source = build(9, 5, {"kind": "independent", "probability": 0.3}, offset=2.0)
    truth, batch = source.truth, source.batch(3, 100)
    torch.testing.assert_close(truth.offset.norm(), torch.tensor(2.0))
    torch.testing.assert_close(batch.acts, batch.codes @ truth.directions + truth.offset)
    loud = build(9, 5, {"kind": "independent", "probability": 0.3}, offset=2.0, noise=0.3)
    batch = loud.batch(3, 20_000)
    assert abs(float((batch.acts - batch.codes @ truth.directions - truth.offset).std()) - 0.3) < 0.01


def test_rectified_parents_silence_their_children():
    codes = codes_of(
        build(4, 8, TREE | {"roots": 1, "depth": 1}, values={"kind": "rectified_normal", "mu": 0.2, "sigma": 1.0})
    )
    assert not bool(((codes[:, 0] == 0)[:, None] & (codes[:, 1:] > 0)).any()) and float(codes[:, 1:].sum()) > 0


def test_children_scaled_by_their_parent():
    """Only the root's magnitude is not 1, so that of a child is the root's divided by the root's mean."""
    values = {"kind": "constant", "value": [2.0, 1.0, 1.0, 3.0]}
    source = build(4, 8, TREE | {"roots": 1, "depth": 1, "scaled": True, "probability": 0.5}, values=values)
    codes = codes_of(source, 1000)
    assert set(codes[:, 3].tolist()) == {0.0, 3.0}  # the root at its mean scales by 1
    uniform = build(3, 8, {"kind": "tree", "parents": [-1, 0, 1], "probability": 1.0, "scaled": True})
    c = codes_of(uniform)
    ratio = c[:, 1] / c[:, 0] * 0.5  # the child's own magnitude: U[0, 1] again
    assert abs(float(ratio.mean()) - 0.5) < 0.01 and float(ratio.max()) <= 1 + 1e-5
    assert abs(float(c[:, 2].mean()) - 0.5) < 0.01  # scaling leaves the mean
    assert float(torch.corrcoef(c.T)[0, 2]) > 0.3


def test_prepared_and_built_sources_are_the_same(tmp_path: Path):
    config = Config(
        n_features=26,
        d_in=8,
        activity=TREE | {"exclusive": True, "probability": 0.2},
        values={"kind": "rectified_normal", "sigma": 0.5},
        directions={"kind": "repelled"},
        noise=0.1,
        offset=0.5,
        importance={"kind": "geometric", "ratio": 0.9, "first": 1},
    )
    config.prepare(tmp_path / "s", lambda done, total, unit: None, "cpu")
    opened, built = config.open(tmp_path / "s", "cpu"), config.build()
    a, b = opened.batch(4, 10, "test"), built.batch(4, 10, "test")
    assert torch.equal(a.acts, b.acts) and torch.equal(a.codes, b.codes)
    for name in ("directions", "represented", "probability", "importance", "parents", "offset"):
        assert torch.equal(getattr(opened.truth, name), getattr(built.truth, name))
    torch.testing.assert_close(built.truth.importance, 0.9 ** torch.arange(26.0))


@pytest.mark.parametrize("correlation", [{"kind": "random"}, {"kind": "low_rank", "rank": 2}])
@pytest.mark.parametrize("directions", ["random", "orthonormal", "repelled"])
def test_every_part_can_be_written_and_read(tmp_path: Path, correlation: Given, directions: str):
    activity = {"kind": "copula", "probability": 0.2, "correlation": correlation}
    config = Config(n_features=6, d_in=7, activity=activity, directions={"kind": directions})
    config.prepare(tmp_path, lambda done, total, unit: None, "cpu")
    assert torch.equal(config.open(tmp_path, "cpu").batch(1, 9).acts, config.build().batch(1, 9).acts)


def test_parents_are_provided_where_there_are_any():
    assert "parents" in Config(n_features=26, d_in=8, activity=TREE).provides
    flat = {"kind": "tree", "parents": [-1, -1], "probability": 0.1}
    assert "parents" not in Config(n_features=2, d_in=8, activity=flat).provides
    assert Config(n_features=2, d_in=2, activity={"kind": "fixed", "k": 1}).provides == {"truth", "codes"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_in": 0}, "source.d_in = 0: input should be greater than 0"),
        (
            {"directions": {"kind": "orthonormal"}},
            "source: directions: 26 orthonormal features do not fit into d_in = 8",
        ),
        ({"activity": TREE | {"exclusive": True}}, "source: activity.probability: the exclusive children of feature 0"),
        (
            {"activity": TREE | {"rots": 2}},
            "source.activity.rots: 'rots' is not a known key of .source.activity.: did you",
        ),
        ({"activity": {"kind": "tre"}}, "source.activity: 'tre' is not a known kind: did you mean 'tree'"),
        ({"activity": {"probability": 0.1}}, "source.activity.kind is missing: give it a value"),
        ({"values": {"kind": "uniform", "low": -1}}, "source.values: low = -1: codes are not negative; split a signed"),
        ({"importance": -1}, "source: importance: -1 is not above 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_one_line(change: Given, message: str):
    source = {"kind": "features", "n_features": 26, "d_in": 8, "activity": TREE} | change
    with pytest.raises(ValueError, match=message) as caught:
        parse({"name": "x", "source": source, "dictionary": {"kind": "relu", "n_latents": 8, "l1": 1}})
    assert "\n" not in str(caught.value)


def test_cat_and_car_share_a_signed_neuron():
    """Two features that exclude each other in one dimension; a signed feature, here U[-1, 1], has the same form."""
    source = build(
        2,
        1,
        {"kind": "one_of", "size": 2, "probability": 0.5},
        directions={"kind": "explicit", "vectors": [[1], [-1]]},
    )
    batch = source.batch(0, ROWS)
    x = batch.acts[:, 0]
    assert bool(((batch.codes[:, 0] == x.relu()) & (batch.codes[:, 1] == (-x).relu())).all())
    assert abs(float((x > 0).float().mean()) - 0.25) < 0.02 and abs(float(x[x != 0].mean())) < 0.02


def test_king_without_man_with_woman_is_queen():
    """Words are sums of attributes: one of each pair is always active, and every feature has its direction."""
    source = build(4, 50, {"kind": "one_of", "size": 2}, values={"kind": "constant"})
    batch = source.batch(0, 100)
    words = {tuple(c.tolist()): x for c, x in zip(batch.codes, batch.acts, strict=True)}
    assert len(words) == 4  # man or woman, commoner or royal
    man, woman, king, queen = (words[c] for c in ((1, 0, 1, 0), (0, 1, 1, 0), (1, 0, 0, 1), (0, 1, 0, 1)))
    torch.testing.assert_close(king - man + woman, queen)


def test_square_circle_and_triangle_in_two_neurons():
    source = build(
        3,
        2,
        {"kind": "independent", "probability": 0.1},
        directions={"kind": "explicit", "vectors": [[1, 0], [0, 1], [1, 1]]},
    )
    gram = source.truth.directions @ source.truth.directions.T
    torch.testing.assert_close(gram[2], torch.tensor([0.5**0.5, 0.5**0.5, 1]))
    assert torch.linalg.matrix_rank(source.truth.directions) == 2


def test_a_vector_of_zeros_is_a_feature_that_is_not_represented():
    source = build(
        2,
        2,
        {"kind": "independent", "probability": 0.5},
        directions={"kind": "explicit", "vectors": [[1, 0], [0, 0]]},
    )
    assert source.truth.represented.tolist() == [True, False]
    assert not bool(source.batch(0, 100).acts[:, 1].any())

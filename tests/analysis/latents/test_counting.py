"""One pass over held-out samples, compared with the direct computation on all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.analysis.latents import Exploration, LatentsConfig, explore_latents
from sae.analysis.latents.best_entries import BestEntries
from sae.analysis.latents.cofiring import CoFiring
from sae.analysis.latents.examples import APART, SILENT, TOP, apart
from sae.analysis.latents.explore import _Survey  # pyright: ignore[reportPrivateUsage]
from sae.analysis.latents.firing import Fired
from sae.analysis.latents.reading import held_out_vectors
from sae.dictionaries.relu import Relu
from sae.numerics.memory import held_bytes, peak_bytes
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.source import TensorSource
from sae.sources.independent import Config as Independent

N = 3000


def silent(done: int, total: int, unit: str) -> None:
    pass


def dictionary(d_in: int = 8, n_latents: int = 24) -> Relu:
    """Random directions, a third of them hardly ever active, and one dead."""
    W = torch.randn(n_latents, d_in, generator=generator("test"))
    W = W / W.norm(dim=1, keepdim=True)
    b_enc = torch.linspace(-0.6, 0.0, n_latents)
    b_enc[0] = -100.0
    return Relu(W.T.contiguous(), W, b_enc, torch.zeros(d_in))


SOURCE = Independent(n_features=12, d_in=8, probability=0.15)
LOOKED = LatentsConfig(n_tokens=2 * N, n_top=7, n_per_interval=3, n_neighbours=5)


def every_code(d: Relu) -> Tensor:
    source = SOURCE.build()
    return torch.cat([d.encode(source.batch(0, N, half).acts) for half in ("choose", "test")])


def looked_at(monkeypatch: pytest.MonkeyPatch, at_once: int, looked: LatentsConfig = LOOKED) -> Exploration:
    import importlib

    d = dictionary()
    gathering = importlib.import_module("sae.analysis.latents.explore")
    monkeypatch.setattr(gathering, "CODES_AT_ONCE", at_once * d.n_latents)
    return explore_latents(d, SOURCE.build(), looked, silent)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Exploration:
    return looked_at(monkeypatch, N)  # one piece a half, so that draws are those of `every_code`


def test_rates_means_and_extremes_are_those_of_all_codes(found: Exploration):
    z = every_code(dictionary())
    fires = z > 0
    assert found.tally.n_vectors == len(z) and torch.equal(found.tally.count, fires.sum(0))
    torch.testing.assert_close(found.tally.mean, z.sum(0) / fires.sum(0), equal_nan=True)
    assert torch.equal(found.tally.most, z.amax(0))
    assert torch.equal(found.tally.least, torch.where(fires, z, torch.inf).amin(0))
    assert math.isnan(found.tally.mean[0]) and found.tally.rate[0] == 0


def test_a_histogram_has_every_activation_in_its_bin(found: Exploration):
    z, edges = every_code(dictionary()), found.tally.edges
    assert torch.equal(found.tally.histogram.sum(1), found.tally.count.int())
    for j in range(1, 24):
        values = z[:, j][z[:, j] > 0]
        inside = values[(values > edges[1] * 1.001) & (values < edges[-2] * 0.999)]
        plain, _ = np.histogram(inside.numpy(), edges.numpy())
        assert np.abs(plain[1:-1] - found.tally.histogram[j].numpy()[1:-1]).sum() <= 2  # on a border


def test_the_strongest_places_are_the_strongest_of_all(found: Exploration):
    z = every_code(dictionary())
    top = found.collected.top
    assert torch.equal(top.value[1:], z.topk(7, dim=0).values.T[1:])
    for j in range(1, 24):
        assert torch.equal(z[top.columns["row"][j].long(), j], top.value[j])
    assert not top.filled[0].any()


def test_phi_is_the_correlation_of_firing(found: Exploration):
    fires = (every_code(dictionary()) > 0).double().numpy()
    with np.errstate(invalid="ignore"):
        phi = np.nan_to_num(np.corrcoef(fires.T))
    np.fill_diagonal(phi, 0)
    best = np.sort(phi, axis=1)[:, ::-1][:, :5]
    phi = found.partners.phi.nan_to_num(0.0).numpy()
    np.testing.assert_allclose(phi, np.clip(best, 0, None), atol=1e-6)
    for j in range(1, 24):
        for other, share in zip(found.partners.latent[j].tolist(), found.partners.share[j].tolist(), strict=True):
            if other >= 0:
                assert share == pytest.approx((fires[:, j] * fires[:, other]).sum() / fires[:, j].sum())


def test_examples_lie_in_their_intervals_and_silence_is_silent(found: Exploration):
    e, most = found.examples, found.tally.most[found.shown]
    torch.testing.assert_close(found.windows.at_example, e.value)
    share = e.value / most[e.latent].clamp_min(1e-30)
    for k in range(1, 6):
        its = share[e.group == k]
        assert len(its) > 20 and float(its.min()) >= (5 - k) / 5 - 1e-6 and float(its.max()) <= (6 - k) / 5 + 1e-6
    assert bool((e.value[e.group == SILENT] == 0).all()) and int((e.group == SILENT).sum()) > 24
    sizes = torch.bincount(e.latent[e.group == TOP], minlength=24)
    assert sizes.tolist() == found.tally.count.clamp(max=7).tolist() and sizes[0] == 0 and sizes.sum() > 100
    z = every_code(dictionary())
    assert torch.equal(z[e.row, found.shown[e.latent]], e.value)


def test_every_interval_that_has_enough_activations_is_sampled(found: Exploration):
    z, e = every_code(dictionary()), found.examples
    full: list[bool] = []
    for j in range(1, 24):
        share = z[:, j] / z[:, j].max().clamp_min(1e-30)
        for k in range(1, 6):
            there = int(((share > (5 - k) / 5) & (share <= (6 - k) / 5)).sum())
            sampled = int(((e.latent == j) & (e.group == k)).sum())
            assert sampled <= min(3, there) and (there < 20 or sampled)
            full.append(sampled == min(3, there))
    assert np.mean(full) > 0.9


def test_the_size_of_pieces_changes_no_count():
    """A source of a matrix, whose rows are the same for every batch size."""
    d = dictionary()
    source = TensorSource(SOURCE.build().batch(0, 4000).acts, heldout=0.9)
    found: list[_Survey] = []
    for at_once in (10_000, 300):
        survey = _Survey(d, source, LOOKED, torch.arange(24))
        survey.run(held_out_vectors(source, 3600, at_once), silent)
        found.append(survey)
    whole, parts = found
    assert torch.equal(whole.tally.count, parts.tally.count) and torch.equal(whole.tally.most, parts.tally.most)
    torch.testing.assert_close(whole.tally.sum, parts.tally.sum)
    assert torch.equal(whole.collected.top.value, parts.collected.top.value)
    assert (whole.cofiring.pairs != parts.cofiring.pairs).nnz == 0


def test_the_same_settings_find_the_same(monkeypatch: pytest.MonkeyPatch):
    one, other = (looked_at(monkeypatch, 700) for _ in range(2))
    for name in ("latent", "group", "row", "position", "value"):
        assert torch.equal(getattr(one.examples, name), getattr(other.examples, name))


def test_latents_that_are_asked_for_are_shown_and_no_others(monkeypatch: pytest.MonkeyPatch):
    found = looked_at(monkeypatch, 700, LOOKED.model_copy(update={"latents": (17, 3, 3)}))
    assert found.shown.tolist() == [3, 17] and set(found.examples.latent.tolist()) == {0, 1}
    drawn = looked_at(monkeypatch, 700, LOOKED.model_copy(update={"latents": 5}))
    assert len(drawn.shown) == 5 and drawn.tally.rate.shape == (24,)
    with pytest.raises(UserError, match="no latent 24; give numbers from 0 to 23"):
        looked_at(monkeypatch, 700, LOOKED.model_copy(update={"latents": (24,)}))


def test_what_is_kept_is_a_uniform_sample():
    times = torch.zeros(40)
    for seed in range(600):
        kept, draw = BestEntries(2, 4, ("row",)), generator("kept", seed)
        for begin in range(0, 40, 8):
            rows = torch.arange(begin, begin + 8)
            kept.offer(torch.ones_like(rows), torch.rand(8, generator=draw), rows.float(), row=rows)
        assert kept.filled[1].all() and not kept.filled[0].any()
        times[kept.columns["row"][1].long()] += 1
    expected = 600 * 4 / 40
    assert float(((times - expected).square() / expected).sum()) < 70  # chi-squared of 39 degrees, p = .002


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 140), st.integers(1, 99)), max_size=60))
@settings(max_examples=150, deadline=None)
def test_examples_of_one_row_are_apart_and_its_largest_is_among_them(entries: list[tuple[int, int, int, int]]):
    unique = list({(latent, row, position): value for latent, row, position, value in entries}.items())
    columns = [torch.tensor([key[i] for key, _ in unique], dtype=torch.int64) for i in range(3)]
    value = torch.tensor([float(v) for _, v in unique])
    kept = apart(*columns, value).tolist()
    chosen = [unique[i] for i in kept]
    for i, ((latent, row, position), _) in enumerate(chosen):
        for (its, its_row, its_position), _ in chosen[:i]:
            assert (latent, row) != (its, its_row) or abs(position - its_position) >= APART
    for place in {(key[0], key[1]) for key, _ in unique}:
        largest = max(v for key, v in unique if key[:2] == place)
        assert largest in [v for key, v in chosen if key[:2] == place]


def test_pairs_beyond_the_limit_are_dropped_and_no_count_is_too_high():
    z = (torch.rand(4000, 40, generator=generator("pairs")) < 0.1).float()
    z[:, 1] = z[:, 0]
    few, all_pairs = CoFiring(40, most=400), CoFiring(40)
    for counted in (few, all_pairs):
        for piece in z.split(500):
            counted.add(Fired.of(piece), len(piece))
    plain = (z.T @ z).numpy()
    assert few.pruned and not all_pairs.pruned and few.pairs.nnz <= 40 * 40
    np.testing.assert_array_equal(all_pairs.pairs.toarray(), plain)
    assert (few.pairs.toarray() <= plain).all() and few.pairs[0, 1] == plain[0, 1]
    assert int(few.partners(torch.tensor([0]), 3).latent[0, 0]) == 1


def test_crowded_rows_are_counted_in_part():
    z = torch.ones(300, 400)
    counted = CoFiring(400)
    counted.add(Fired.of(z), 300)
    assert counted.n_seen == 300 and counted.n_vectors == 30
    assert int(counted.count[0]) == 30 and counted.pairs[3, 5] == 30


def test_memory_does_not_grow_with_the_rows():
    d, source = dictionary(64, 64), Independent(n_features=64, d_in=64, probability=0.05).build()
    looked, few, many = LatentsConfig(n_tokens=20_000), 40_000, 400_000
    explore_latents(d, source, looked, silent)
    most: list[int] = []
    for n in (few, many):
        before = held_bytes("cpu")
        explore_latents(d, source, looked.model_copy(update={"n_tokens": n}), silent)
        most.append(peak_bytes("cpu") - before)
    activations = (many - few) * 64 * 4
    assert most[1] - most[0] < activations / 3, most

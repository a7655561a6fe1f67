"""Coverage and board reconstruction: by hand, at chance, against a plain loop, and with held-out selection."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics._properties import active_features, labelled
from sae.metrics.coverage import COVERAGE_SCORES, THRESHOLDS, Config
from sae.source import Batch

Rows = tuple[torch.Tensor, torch.Tensor]


def score(choose: Rows, test: Rows, **settings: Any) -> dict[str, float]:
    """Each split as (codes of the dictionary, properties); the properties are the true codes."""
    halves = [Batch(torch.zeros(len(z), 2), y.float()) for z, y in (choose, test)]
    case = Case(Relu.tied(torch.ones(choose[0].shape[1], 2)), Evidence(*halves))
    case.__dict__.update(choose_codes=choose[0], test_codes=test[0])  # where cached_property keeps them
    return dict(Config(**settings).score(case).scalars)


def f1(yes: torch.Tensor, positive: torch.Tensor) -> float:
    return 2 * int((yes & positive).sum()) / int(yes.sum() + positive.sum())


def test_by_hand():
    """Latent 0 has property 0 above half of its largest code, and is unrelated below. Latent 1 has property 1 at any t
    in ten of fifteen samples. At one t for both, .5, the second loses its weaker half."""
    y = torch.zeros(60, 2, dtype=torch.bool)
    y[:20, 0], y[30:45, 1] = True, True
    z = torch.zeros(60, 2)
    z[:20, 0], z[20:40, 0] = 1.0, 0.5
    z[30:35, 1], z[35:40, 1] = 1.0, 0.4
    s = score((z, y), (z, y))
    best = 2 * 10 / (10 + 15)
    assert s["coverage"] == pytest.approx((1 + best) / 2)
    assert s["coverage_one_t"] == pytest.approx((1 + 2 * 5 / (5 + 15)) / 2)
    assert s["coverage_chance"] == pytest.approx((2 * 20 / 80 + 2 * 15 / 75) / 2)
    # Latent 0 is trusted from t = .5, latent 1 below .4, where it fires ten times: never both. 20 of 35 at best.
    assert s["board_reconstruction"] == pytest.approx(2 * 20 / (20 + 35))
    s = score((z, y), (z, y), least_firings=5)
    assert s["board_reconstruction"] == pytest.approx(2 * 25 / (25 + 35))


def test_exact_codes_are_perfect():
    g = torch.Generator().manual_seed(0)
    y = torch.rand(600, 5, generator=g) < 0.2
    z = y * (0.5 + torch.rand(600, 5, generator=g))
    s = score((z[:300], y[:300]), (z[300:], y[300:]))
    assert s["coverage"] == s["coverage_one_t"] == s["board_reconstruction"] == 1 > s["coverage_chance"]


def test_independent_codes_are_at_the_closed_form():
    """With rates p and q, F1 = 2pq / (p + q); latents that always fire have 2p / (1 + p), the reported chance."""
    g = torch.Generator().manual_seed(1)
    p, q = 0.3, 0.6
    y = torch.rand(40_000, 3, generator=g) < p
    z = (torch.rand(40_000, 4, generator=g) < q).float()
    s = score((z[:20_000], y[:20_000]), (z[20_000:], y[20_000:]))
    assert s["coverage"] == pytest.approx(2 * p * q / (p + q), abs=0.015)
    assert s["coverage_chance"] == pytest.approx(2 * p / (1 + p), abs=0.01) and s["board_reconstruction"] == 0
    always = torch.ones(20_000, 4)
    assert score((always, y[:20_000]), (always, y[20_000:]))["coverage"] == pytest.approx(s["coverage_chance"])


def test_many_latents_do_not_raise_the_score_by_selection():
    """The best of 2000 random latents has an F1 far above chance where it was selected, not on other samples."""
    g = torch.Generator().manual_seed(2)
    y, z = torch.rand(400, 4, generator=g) < 0.1, (torch.rand(400, 2000, generator=g) < 0.1).float()
    same, other = score((z[:200], y[:200]), (z[:200], y[:200])), score((z[:200], y[:200]), (z[200:], y[200:]))
    assert same["coverage"] > 0.3 and other["coverage"] < 0.2


def test_latent_threshold_and_precision_are_selected_on_the_validation_split():
    """A latent that is right only on the test samples is never selected."""
    g = torch.Generator().manual_seed(3)
    y = torch.rand(400, 1, generator=g) < 0.3
    right, wrong = y.float(), (~y).float()
    choose = torch.cat([wrong[:200], 0.7 * right[:200] + 0.3 * wrong[:200]], dim=1)
    test = torch.cat([right[200:], 0.2 * right[200:] + 0.1 * wrong[200:]], dim=1)
    s = score((choose, y[:200]), (test, y[200:]))
    assert s["coverage"] == 0 == s["board_reconstruction"], "selected: t = .3 / .7 of the second latent"


def test_equals_a_plain_loop():
    g = torch.Generator().manual_seed(4)
    y = torch.rand(300, 4, generator=g) < 0.3
    z = (y.float() @ torch.rand(4, 7, generator=g) + torch.randn(300, 7, generator=g)).relu()
    (z_c, y_c), (z_t, y_t) = (z[:150], y[:150]), (z[150:], y[150:])
    top = z_c.amax(0)

    def says(codes: torch.Tensor, j: int, t: float) -> torch.Tensor:
        return codes[:, j] / top[j] > t

    table = {(t, j, k): f1(says(z_c, j, t), y_c[:, k]) for t in THRESHOLDS for j in range(7) for k in range(4)}
    best = {k: max((key for key in table if key[2] == k), key=table.__getitem__) for k in range(4)}
    own = sum(f1(says(z_t, j, t), y_t[:, k]) for t, j, k in best.values()) / 4
    at = {t: [max(range(7), key=lambda j: table[t, j, k]) for k in range(4)] for t in THRESHOLDS}
    one = max(THRESHOLDS, key=lambda t: sum(table[t, j, k] for k, j in enumerate(at[t])))
    s = score((z_c, y_c), (z_t, y_t), trusted=0.6, least_firings=5)
    assert s["coverage"] == pytest.approx(own)
    assert s["coverage_one_t"] == pytest.approx(
        sum(f1(says(z_t, j, one), y_t[:, k]) for k, j in enumerate(at[one])) / 4
    )

    def board(t: float, codes: torch.Tensor, truth: torch.Tensor) -> float:
        said = torch.zeros_like(truth)
        for j in range(7):
            yes = says(z_c, j, t)
            for k in range(4):
                hits = int((yes & y_c[:, k]).sum())
                if int(yes.sum()) >= 5 and hits >= 0.6 * int(yes.sum()):
                    said[:, k] |= says(codes, j, t)
        return f1(said, truth)

    chosen = max(THRESHOLDS, key=lambda t: board(t, z_c, y_c))
    assert s["board_reconstruction"] == pytest.approx(board(chosen, z_t, y_t)) and 0.2 < s["board_reconstruction"] < 1


def test_the_order_and_the_scale_of_latents_do_not_matter():
    g = torch.Generator().manual_seed(5)
    y = torch.rand(400, 3, generator=g) < 0.3
    z = (y.float() @ torch.rand(3, 6, generator=g) + torch.randn(400, 6, generator=g)).relu()
    order, factor = torch.randperm(6, generator=g), 2.0 ** torch.arange(6)
    moved = (z * factor)[:, order]
    before = score((z[:200], y[:200]), (z[200:], y[200:]))
    assert score((moved[:200], y[:200]), (moved[200:], y[200:])) == pytest.approx(before)


def test_a_latent_that_is_dead_on_the_validation_split_predicts_nothing():
    y = torch.rand(100, 1, generator=torch.Generator().manual_seed(6)) < 0.4
    s = score((torch.zeros(100, 2), y), (y.float().repeat(1, 2), y))
    assert s["coverage"] == 0 == s["board_reconstruction"]


def test_labels_are_the_properties_where_there_are_any():
    n = torch.arange(120)
    batch = Batch(torch.zeros(120, 2), labels={"class": n % 3, "even": (n % 2 == 0).long(), "rare": (n < 5).long()})
    found = labelled(batch, batch, 10)
    assert torch.equal(found.on_test, torch.stack([n % 3 == 0, n % 3 == 1, n % 3 == 2, n % 2 == 0], dim=1))
    case = Case(Relu.tied(torch.ones(4, 2)), Evidence(batch, batch, labelled=(batch, batch)))
    z = found.on_choose.float()[:, [2, 0, 3, 1]]
    case.__dict__.update(choose_codes=z, test_codes=z)
    s = Config().score(case).scalars
    assert s["coverage"] == 1 == s["board_reconstruction"]


def test_labelled_rows_of_their_own_are_encoded():
    g = torch.Generator().manual_seed(7)
    x = torch.rand(200, 2, generator=g)
    own = [Batch(half, labels={"y": (half[:, 1] > 0.5).long()}) for half in x.split(100)]
    other = Batch(torch.zeros(10, 2))
    s = Config().score(Case(Relu.tied(torch.eye(2)), Evidence(other, other, labelled=(own[0], own[1])))).scalars
    assert s["coverage"] > 0.95


def test_properties_are_spread_over_frequencies_and_must_be_represented():
    g = torch.Generator().manual_seed(8)
    codes = (torch.rand(1000, 30, generator=g) < torch.linspace(0.005, 0.5, 30)).float()
    batch = Batch(torch.zeros(1000, 2), codes)
    found = active_features(batch, batch, None, 5, 10)
    counts = found.on_choose.sum(0)
    assert len(found) == 5 and torch.equal(counts, counts.sort().values) and counts[0] < 40 and counts[-1] > 450
    assert len(active_features(batch, batch, torch.arange(30) >= 28, 5, 10)) == 2


def test_without_a_usable_property_all_is_nan():
    y = torch.zeros(50, 1, dtype=torch.bool)
    s = score((torch.rand(50, 2), y), (torch.rand(50, 2), y))
    assert set(s) == set(COVERAGE_SCORES) and all(math.isnan(value) for value in s.values())

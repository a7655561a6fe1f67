"""Every probe: perfect on separable data, at chance on independent labels, and compared with direct computations."""

from __future__ import annotations

import numpy as np
import pytest

from sae.numerics.binary_probes import logistic
from sae.probing.probes import DiffMeans, Knn, Logistic, Mlp, Pca, Probe, Single, Sparse, Trees, scaled
from sae.probing.validation import auc, choose_setting

PROBES: dict[str, Probe] = {
    "lr": Logistic(),
    "l1": Logistic("l1"),
    "pca": Pca(),
    "knn": Knn(),
    "trees": Trees(),
    "mlp": Mlp(),
    "diff_means": DiffMeans(),
    "single": Single(signed=True),
    "latent": Single(signed=False),
    "sparse": Sparse(2),
    "sparse-l2": Sparse(2, "forward", "l2"),
}


def data(n: int, seed: int, gap: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    y = draw.random(n) < 0.4
    x = draw.normal(size=(n, 6))
    x[:, 2] += gap * y
    return x.astype(np.float32), y


def score(probe: Probe, train: tuple[np.ndarray, np.ndarray], x_test: np.ndarray) -> np.ndarray:
    x, y = train
    first = probe.settings(*x.shape)[0]
    setting = choose_setting(probe, x, y, np.arange(len(y)), 0).setting if isinstance(probe, Pca) else first
    return probe.scores(x, y, x_test, [setting], 0)[:, 0]


@pytest.mark.parametrize("name", PROBES)
def test_what_is_plainly_there_is_found_and_the_threshold_is_at_zero(name: str):
    x_test, y_test = data(200, 1)
    said = score(PROBES[name], data(150, 0), x_test)
    assert auc(said[:, None], y_test)[0] > 0.999
    assert ((said >= 0) == y_test).mean() > 0.97


@pytest.mark.parametrize("name", PROBES)
def test_what_is_not_there_is_not_found(name: str):
    """For labels that are independent of 400 test rows the AUC has a standard deviation of about .03."""
    found = []
    for seed in range(4):
        x, _ = data(100, seed, gap=0)
        x_test, y_test = data(400, 100 + seed, gap=0)
        y = np.random.default_rng(seed).random(100) < 0.5
        found.append(auc(score(PROBES[name], (x, y), x_test)[:, None], y_test)[0])
    assert abs(np.mean(found) - 0.5) < 4 * 0.03 / 2


@pytest.mark.parametrize("name", PROBES)
def test_every_setting_gives_a_column_and_there_are_at_most_ten(name: str):
    train, (x_test, _) = data(60, 0), data(20, 1)
    settings = PROBES[name].settings(*train[0].shape)
    assert 1 <= len(settings) <= 10 and len({str(s) for s in settings}) == len(settings)
    assert PROBES[name].scores(*train, x_test, settings, 0).shape == (20, len(settings))


@pytest.mark.parametrize("name", PROBES)
def test_the_order_of_columns_does_not_count(name: str):
    if name in ("trees", "mlp"):
        pytest.skip("draws by the place of a column")
    train, (x_test, _) = data(80, 0), data(30, 1)
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(
        score(PROBES[name], train, x_test),
        score(PROBES[name], (train[0][:, order], train[1]), x_test[:, order]),
        rtol=1e-2,
        atol=2e-3,
    )


def test_a_two_dimensional_pattern_is_for_those_that_are_not_linear():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(600, 2)).astype(np.float32)
    y = x[:, 0] * x[:, 1] > 0
    found = {name: auc(score(p, (x[:300], y[:300]), x[300:])[:, None], y[300:])[0] for name, p in PROBES.items()}
    assert min(found["knn"], found["trees"], found["mlp"]) > 0.9
    assert max(found["lr"], found["diff_means"], found["pca"]) < 0.65


def test_nearest_neighbours_by_hand():
    x = np.array([[0.0], [1.0], [2.0], [10.0]], dtype=np.float32)
    y = np.array([True, False, True, False])
    probe = Knn()
    said = probe.scores(x, y, np.array([[0.1], [9.0]], dtype=np.float32), [{"neighbours": 1}, {"neighbours": 3}], 0)
    np.testing.assert_allclose(said, [[0.5, 2 / 3 - 0.5], [-0.5, 1 / 3 - 0.5]], atol=1e-6)


def test_the_difference_of_means_by_hand():
    x = np.array([[0, 0], [2, 0], [1, 5], [3, 5]], dtype=np.float32)
    y = np.array([False, True, False, True])
    said = DiffMeans().scores(x, y, np.array([[1.5, 9], [2.5, 9]], dtype=np.float32), [{}], 0)[:, 0]
    np.testing.assert_allclose(said, [0, 2], atol=1e-6)  # direction (2, 0), half way at 1.5


def test_a_neuron_counts_in_either_direction_and_a_latent_as_it_stands():
    x, y = data(100, 0)
    x_test, y_test = data(300, 1)
    signed, plain = (score(p, (-x, y), -x_test) for p in (Single(signed=True), Single(signed=False)))
    assert auc(signed[:, None], y_test)[0] > 0.999
    assert auc(plain[:, None], y_test)[0] < 0.7


def test_sparse_regression_reads_its_columns_alone():
    x, y = data(100, 0)
    x_test, _ = data(50, 1)
    probe = Sparse(1, penalty="l2")
    expected = logistic(*scaled(x[:, [2]], x_test[:, [2]])[:1], y, None, scaled(x[:, [2]], x_test[:, [2]])[1], 0.5)
    np.testing.assert_allclose(probe.scores(x, y, x_test, [{"C": 0.5}], 0)[:, 0], expected, rtol=1e-5)


def test_all_components_are_all_columns():
    x, y = data(100, 0)
    x_test, _ = data(50, 1)
    a = Pca().scores(x, y, x_test, [{"components": 6}], 0)
    b = Logistic().scores(x, y, x_test, [{"C": 1.0}], 0)
    np.testing.assert_allclose(a, b, atol=5e-3)


def test_a_strong_l1_penalty_leaves_fewer_columns_than_a_weak_one():
    from sae.numerics.binary_probes import logistic_model

    x, y = data(200, 0, gap=1.0)
    strong, weak = (np.count_nonzero(logistic_model(c, "l1").fit(x, y).coef_) for c in (0.02, 100.0))
    assert strong < weak == 6

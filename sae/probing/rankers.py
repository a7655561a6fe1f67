"""Rankings that select the columns of a sparse probe, by how well each column predicts a binary property.

All but the second and the last are those of Gurnee et al. 2023, 'Finding neurons in a haystack'. Their optimal choice
for small k (a cutting-plane search by a commercial solver) is not included; `forward`, orthogonal matching pursuit
(Pati, Rezaiifar and Krishnaprasad 1993), is a greedy replacement: the next column is the one most correlated with the
residual of the chosen ones. `mean_difference` is the ranking of Kantamneni et al. 2025; `mean_difference_normed` first
divides every column by the mean of its nonzero values, as sae-probes does.

Every ranking uses training rows only, and returns the `k` best columns, the best first, ties in column order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae.numerics.binary_probes import logistic_model, mean_difference, one_thread, standardised

X, Y, Index = NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]
Ranker = Callable[[X, Y, int, int], Index]
"""``rank(x, positive, k, seed)``."""


def by_mean_difference(x: X, positive: Y, k: int, seed: int) -> Index:
    """By |mean of the positive rows - mean of the others|."""
    difference = mean_difference(torch.from_numpy(x), torch.from_numpy(positive)[:, None])[0]
    return strongest(difference.abs().numpy(), k)


def by_mean_difference_normed(x: X, positive: Y, k: int, seed: int) -> Index:
    """By mean difference, of columns in units of their mean nonzero value."""
    active = (x != 0).sum(0)
    scale = np.abs(x).sum(0) / np.maximum(active, 1)
    return by_mean_difference(x / np.where(active > 0, scale, 1).astype(x.dtype), positive, k, seed)


def by_f_statistic(x: X, positive: Y, k: int, seed: int) -> Index:
    """By the F statistic of a one-way analysis of variance: the squared t between the classes."""
    from sklearn.feature_selection import f_classif

    with np.errstate(all="ignore"):
        return strongest(f_classif(x.astype(np.float64), positive)[0], k)


def by_mutual_information(x: X, positive: Y, k: int, seed: int) -> Index:
    """By the mutual information with the class, estimated from nearest neighbours (Ross 2014)."""
    from sklearn.feature_selection import mutual_info_classif

    estimate: Any = mutual_info_classif
    information = estimate(x, positive, discrete_features=False, random_state=seed % 2**32)
    # The estimate adds noise to ties, which can give a constant column a positive value.
    return strongest(np.where(np.ptp(x, axis=0) > 0, information, -np.inf), k)


def by_l1_logistic(x: X, positive: Y, k: int, seed: int) -> Index:
    """By |coefficient| in the sparsest L1 logistic regression, on a path of ten penalties, that has `k` columns."""
    from sklearn.svm import l1_min_c

    scaled = _standardised(x)
    least: Any = l1_min_c(scaled, positive, loss="log")
    weight = np.zeros(x.shape[1])
    for factor in np.geomspace(1.2, 1000, 10):
        weight = np.abs(_l1_coefficients(scaled, positive, float(least * factor)))
        if np.count_nonzero(weight) >= k:
            break
    return strongest(weight, k)


def _l1_coefficients(x: X, positive: Y, inverse: float) -> NDArray[np.float64]:
    with one_thread():
        return logistic_model(inverse, "l1").fit(x, positive).coef_[0]


def by_svm(x: X, positive: Y, k: int, seed: int) -> Index:
    """By |coefficient| of a linear support vector machine (squared hinge, C = 1) on standardised columns."""
    from sklearn.svm import LinearSVC

    with one_thread():
        model = LinearSVC(C=1.0, dual="auto", max_iter=10_000, random_state=seed % 2**32)
        return strongest(np.abs(model.fit(_standardised(x), positive).coef_[0]), k)


def forward(x: X, positive: Y, k: int, seed: int) -> Index:
    """The order in which orthogonal matching pursuit selects standardised columns to explain the class."""
    scaled = _standardised(x).astype(np.float64)
    rest = positive - positive.mean()
    chosen: list[int] = []
    basis = np.zeros((len(x), 0))
    for _ in range(min(k, x.shape[1])):
        gain = np.abs(scaled.T @ rest)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        # Orthogonalise twice against rounding; nothing remains of a column in the span of the chosen ones.
        new = scaled[:, best] - basis @ (basis.T @ scaled[:, best])
        new -= basis @ (basis.T @ new)
        norm = np.linalg.norm(new)
        if norm > 1e-9 * np.sqrt(len(x)):
            basis = np.column_stack([basis, new / norm])
            rest = rest - basis[:, -1] * (basis[:, -1] @ rest)
    return np.array(chosen)


def at_random(x: X, positive: Y, k: int, seed: int) -> Index:
    """Random columns, a control."""
    return np.random.default_rng(seed).permutation(x.shape[1])[:k]


RANKERS: dict[str, Ranker] = {
    "mean_difference": by_mean_difference,
    "mean_difference_normed": by_mean_difference_normed,
    "f_statistic": by_f_statistic,
    "mutual_information": by_mutual_information,
    "l1_logistic": by_l1_logistic,
    "svm": by_svm,
    "forward": forward,
    "random": at_random,
}
"""The rankings by name."""


def strongest(value: NDArray[np.floating[Any]], k: int) -> Index:
    """The `k` columns with the largest values; NaN comes last."""
    return np.argsort(-np.nan_to_num(value, nan=-np.inf, posinf=np.inf), kind="stable")[:k]


def _standardised(x: X) -> X:
    rows = torch.from_numpy(x)
    return standardised(rows, rows)[0].numpy()

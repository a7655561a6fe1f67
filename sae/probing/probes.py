"""The probes: classifiers fitted to labelled rows that return a score for each row, 0 or more for the positive class.

Kantamneni et al. 2025, 'Are sparse autoencoders useful?': logistic regression, PCA before it, nearest neighbours,
boosted trees, a multilayer perceptron, each with ten hyper-parameter settings. AxBench (Wu et al. 2025): the difference
of means. Gurnee et al. 2023: the best single column, and logistic regression on the `k` columns with the highest rank.

Settings are in a prior order, moderate before extreme: the first is used if validation cannot decide. Trees are
scikit-learn's histogram gradient boosting instead of XGBoost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sae.numerics.binary_probes import (
    Penalty,
    best_threshold,
    logistic,
    mean_difference,
    nearest,
    one_thread,
    rank_auc,
    standardised,
)
from sae.probing.rankers import RANKERS

X, Y = NDArray[np.float32], NDArray[np.bool_]
ProbeSetting = Mapping[str, float | int]
"""Hyper-parameters by name."""
ProbeScores = NDArray[np.float32]
"""Scores ``[test_rows, n_settings]``."""
MOST = 100
"""The most neighbours or principal components that are tried."""


class Probe(ABC):
    """Interface of probes. `n_settings` bounds the number of hyper-parameter settings."""

    @abstractmethod
    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        """The hyper-parameter settings to choose from, in the prior order."""

    @abstractmethod
    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        """The scores for `x_test` of the probe fitted to `x` with each of the settings: ``[test_rows, n_settings]``."""


@dataclass(frozen=True)
class Logistic(Probe):
    """Logistic regression on standardised columns; C from 1e5 to 1e-5."""

    penalty: Penalty = "l2"
    """The penalty on the weights."""
    n_settings: int = 10
    """The number of values of C."""

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        inverses = np.logspace(5, -5, self.n_settings).tolist()
        return [{"C": c} for c in sorted(inverses, key=lambda c: (round(abs(np.log10(c)), 6), -c))]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        x, x_test = scaled(x, x_test)
        return columns(logistic(x, positive, None, x_test, s["C"], self.penalty) for s in settings)


@dataclass(frozen=True)
class Sparse(Probe):
    """Logistic regression on the `k` columns with the highest rank."""

    k: int
    """The number of columns."""
    ranker: str = "mean_difference"
    """The ranking, a key of :data:`sae.probing.rankers.RANKERS`."""
    penalty: Penalty = "l1"
    """The penalty on the weights."""
    n_settings: int = 10
    """The number of values of C."""

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return Logistic(self.penalty, self.n_settings).settings(n_rows, self.k)

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        kept = RANKERS[self.ranker](x, positive, self.k, seed)
        inner = Logistic(self.penalty, self.n_settings)
        return inner.scores(x[:, kept], positive, x_test[:, kept], settings, seed)


@dataclass(frozen=True)
class Pca(Probe):
    """Logistic regression (C = 1) on the leading principal components of standardised columns."""

    n_settings: int = 10
    """The most numbers of components that are tried."""

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return [{"components": q} for q in _spread(min(n_rows - 1, n_columns, MOST), self.n_settings)]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        x, x_test = scaled(x, x_test)
        with one_thread():
            axes = np.linalg.svd(x, full_matrices=False)[2].T
        x, x_test = x @ axes, x_test @ axes
        # With fewer rows than components, the slices take all components.
        leading = [int(s["components"]) for s in settings]
        return columns(logistic(x[:, :q], positive, None, x_test[:, :q]) for q in leading)


@dataclass(frozen=True)
class Knn(Probe):
    """The share of positive rows among the nearest neighbours, by Euclidean distance between standardised rows, minus
    one half."""

    n_settings: int = 10
    """The most numbers of neighbours that are tried."""

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return [{"neighbours": k} for k in _spread(min(n_rows - 1, MOST), self.n_settings)]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        ks = [min(int(s["neighbours"]), len(x)) for s in settings]
        hits = positive[nearest(*scaled(x, x_test), max(ks))].cumsum(1)
        return columns(hits[:, k - 1] / k - 0.5 for k in ks)


@dataclass(frozen=True)
class Trees(Probe):
    """Gradient-boosted trees."""

    n_settings: int = 10
    """The number of settings from `GRID`."""

    GRID: ClassVar[list[ProbeSetting]] = [
        {"rate": rate, "leaves": leaves, "smallest": smallest, "l2": l2}
        for rate, leaves, smallest, l2 in (
            *((0.1, 8, 5, 1.0), (0.1, 4, 5, 0.0), (0.1, 31, 20, 0.0), (0.3, 4, 5, 1.0), (0.03, 8, 5, 0.0)),
            *((0.1, 2, 1, 0.0), (0.3, 16, 10, 10.0), (0.03, 31, 5, 10.0), (0.3, 2, 5, 10.0), (0.1, 16, 1, 1.0)),
        )
    ]

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return self.GRID[: self.n_settings]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        from sklearn.ensemble import HistGradientBoostingClassifier

        def log_odds(s: ProbeSetting) -> NDArray[np.float64]:
            model: Any = HistGradientBoostingClassifier(
                learning_rate=s["rate"],
                max_leaf_nodes=int(s["leaves"]),
                min_samples_leaf=int(s["smallest"]),
                l2_regularization=s["l2"],
                max_iter=50,
                early_stopping=False,  # pyright: ignore[reportArgumentType]
                random_state=seed % 2**32,
            )
            return model.fit(x, positive).decision_function(x_test)

        with one_thread():
            return columns(log_odds(s) for s in settings)


@dataclass(frozen=True)
class Mlp(Probe):
    """A perceptron with one hidden layer on standardised columns."""

    n_settings: int = 10
    """The number of settings from `GRID`."""

    GRID: ClassVar[list[ProbeSetting]] = [
        {"width": width, "alpha": alpha, "rate": rate}
        for width, alpha, rate in (
            *((32, 1e-2, 1e-3), (32, 1e-4, 1e-3), (64, 1e-2, 1e-3), (16, 1.0, 1e-3), (128, 1e-2, 1e-3)),
            *((32, 1.0, 1e-2), (64, 1e-4, 1e-2), (16, 1e-4, 1e-2), (128, 1.0, 1e-3), (64, 10.0, 1e-3)),
        )
    ]

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return self.GRID[: self.n_settings]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        from sklearn.neural_network import MLPClassifier

        x, x_test = scaled(x, x_test)

        def log_odds(s: ProbeSetting) -> NDArray[np.float64]:
            model: Any = MLPClassifier(
                hidden_layer_sizes=(int(s["width"]),),
                alpha=s["alpha"],
                learning_rate_init=s["rate"],
                random_state=seed % 2**32,
            )
            p: NDArray[np.float64] = model.fit(x, positive).predict_proba(x_test)[:, 1].astype(np.float64)
            return np.log(p.clip(1e-300)) - np.log((1 - p).clip(1e-300))

        with one_thread():
            return columns(log_odds(s) for s in settings)


@dataclass(frozen=True)
class DiffMeans(Probe):
    """``x . (mu_1 - mu_0)``, minus its value at the midpoint of the means."""

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return [{}]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        direction = mean_difference(torch.from_numpy(x), torch.from_numpy(positive)[:, None])[0].numpy()
        middle = (x[positive].mean(0) + x[~positive].mean(0)) / 2
        return columns((x_test - middle) @ direction for _ in settings)


@dataclass(frozen=True)
class Single(Probe):
    """The column with the best AUC on the training rows, minus the threshold of the best F1 there."""

    signed: bool
    """Whether columns may be taken with either sign."""

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return [{}]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        rows, label = torch.from_numpy(x), torch.from_numpy(positive)
        auc = rank_auc(rows, label[:, None])[0]
        best = int(((auc - 0.5).abs() if self.signed else auc).argmax())
        sign = -1 if self.signed and auc[best] < 0.5 else 1
        threshold = best_threshold(sign * rows[:, best], label)
        return columns(sign * x_test[:, best] - np.float32(threshold) for _ in settings)


def scaled(x: X, x_test: X) -> tuple[X, X]:
    """Both arrays standardised by the means and standard deviations of `x`."""
    a, b = standardised(torch.from_numpy(x), torch.from_numpy(x_test))
    return a.numpy(), b.numpy()


def columns(scores: Iterable[NDArray[Any]]) -> ProbeScores:
    """Stacks the scores of each setting as columns."""
    return np.stack([np.asarray(column, dtype=np.float32) for column in scores], axis=1)


def _spread(most: int, n: int) -> list[int]:
    """At most `n` integers from 1 to `most`, evenly spaced on a log scale, those nearest to the middle first."""
    values = np.unique(np.geomspace(1, max(most, 1), n).round().astype(int)).tolist()
    middle = np.sqrt(max(most, 1))
    return sorted(values, key=lambda q: (round(abs(np.log(q / middle)), 6), q))

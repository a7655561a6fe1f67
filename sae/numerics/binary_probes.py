"""Binary probes: the area under the ROC curve, thresholds and logistic regression."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae.numerics.active_codes import ActiveCodes

COLUMNS_AT_ONCE, CELLS_AT_ONCE = 1024, 2**22
"""The most columns, and the most scores, that are ranked at once; the ranks of a score take some 80 bytes."""
Penalty = Literal["l1", "l2"]


def frequent_enough(min_count: int, *halves: Bool[Tensor, "_ n_tasks"]) -> Bool[Tensor, " n_tasks"]:
    """Whether each task has at least `min_count` rows of either class in every half."""
    rarer = torch.stack([torch.minimum(half.sum(0), (~half).sum(0)) for half in halves])
    return (rarer >= min_count).all(0)


def spread_over(
    active: Bool[Tensor, "rows n_features"], usable: Bool[Tensor, " n_features"], n: int
) -> Int[Tensor, " n_tasks"]:
    """At most `n` of the usable features, spread evenly over the ranks of their frequencies, the rarest first."""
    candidates = usable.nonzero()[:, 0]
    by_frequency = candidates[active[:, candidates].sum(0).argsort(stable=True)]
    n = min(n, len(by_frequency))
    return by_frequency[torch.linspace(0, max(0, len(by_frequency) - 1), n).round().long()]


def rank_auc(
    scores: Float[Tensor, "rows columns"], positive: Bool[Tensor, "rows n_tasks"]
) -> Float[Tensor, "n_tasks columns"]:
    """The AUC of every column for every task: the probability that a positive row scores above a negative one.

        AUC = (R - n_pos (n_pos + 1) / 2) / (n_pos n_neg)

    with R the sum of the positives' ranks (Mann and Whitney 1947), ties at their mean rank. Every column is ranked once
    for all tasks. NaN if a class is empty.
    """
    y = positive.double()
    n_pos = y.sum(0)[:, None]
    size = max(1, min(COLUMNS_AT_ONCE, CELLS_AT_ONCE // max(1, len(scores))))
    rank_sum = torch.cat([y.T @ ranks(part) for part in scores.split(size, dim=1)], dim=1)
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * (len(y) - n_pos))


def ranks(scores: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Ranks within each column, from 1, equal scores at the mean of their ranks.

    All zeros in a column are tied, so only the non-zero scores are sorted, which is fast for sparse codes.
    """
    n_rows, n_columns = scores.shape
    row, column = scores.nonzero(as_tuple=True)
    rank, of_zero = _ranks_of_non_zero(scores[row, column], column, n_rows, n_columns)
    out = of_zero.repeat(n_rows, 1)
    out[row, column] = rank
    return out


def _ranks_of_non_zero(
    value: Float[Tensor, " entries"], column: Int[Tensor, " entries"], n_rows: int, n_columns: int
) -> tuple[Float[Tensor, " entries"], Float[Tensor, " n_columns"]]:
    """The rank of every non-zero score, and that of the zeros of each column."""
    order = value.argsort()
    order = order[column[order].argsort(stable=True)]
    value, column = value[order], column[order]

    new = torch.ones_like(value, dtype=torch.bool)
    new[1:] = (value[1:] != value[:-1]) | (column[1:] != column[:-1])
    tie = new.cumsum(0) - 1
    size = tie.bincount()
    middle = size.cumsum(0) - (size - 1) / 2  # mean position of a tie among all sorted scores, from 1

    filled = column.bincount(minlength=n_columns)
    zeros = n_rows - filled
    below = column[value < 0].bincount(minlength=n_columns)
    start = filled.cumsum(0) - filled
    rank = torch.empty_like(value, dtype=torch.float64)
    rank[order] = middle[tie].double() - start[column] + zeros[column] * (value > 0)
    return rank, (below + (zeros + 1) / 2).double()


def sparse_auc(z: ActiveCodes, positive: Bool[Tensor, "rows n_tasks"]) -> Float[Tensor, "n_tasks n_latents"]:
    """:func:`rank_auc` of codes without their zeros, which are all tied."""
    rank, of_zero = _ranks_of_non_zero(z.value.float(), z.latent, z.n_rows, z.n_latents)
    n_pos = positive.sum(0).double()[:, None]
    above_zero = z.product(positive, rank - of_zero.repeat_interleave(z.count)).T
    rank_sum = above_zero + n_pos * of_zero
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * (z.n_rows - n_pos))


def mean_difference(
    x: Float[Tensor, "rows columns"], positive: Bool[Tensor, "rows n_tasks"]
) -> Float[Tensor, "n_tasks columns"]:
    """The mean of the positive rows minus the mean of the negative rows."""
    y = positive.to(x.dtype)
    n_pos = y.sum(0)[:, None]
    # E[x|1] - E[x|0] = (sum_1 - n_pos E[x]) / n_pos * n / n_neg: one product for both classes
    return (y.T @ (x - x.mean(0))) * len(y) / (n_pos * (len(y) - n_pos))


def best_threshold(scores: Float[Tensor, " rows"], positive: Bool[Tensor, " rows"]) -> float:
    """The t for which ``scores >= t`` has the highest F1.

    It is one of the scores, and equal scores are on the same side of it.
    :func:`~sae.numerics.threshold_fit.best_code_threshold` instead gives the midpoint of two neighbouring scores, for
    ``scores > t``, in many columns at once.
    """
    value, order = scores.sort(descending=True)
    hits = positive[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(value) + 1, device=value.device) + hits[-1])
    last_of_tie = torch.cat([value[1:] != value[:-1], torch.ones_like(positive[:1])])
    return float(value[f1.where(last_of_tie, f1.new_zeros(())).argmax()])


def f1_score(predicted: Bool[Tensor, " rows"], positive: Bool[Tensor, " rows"]) -> float:
    """``2 TP / (predicted + positive)``, 0 if nothing is predicted or positive."""
    hits, total = int((predicted & positive).sum()), int(predicted.sum() + positive.sum())
    return 2 * hits / total if total else 0.0


def standardised(
    choose: Float[Tensor, "choose_rows columns"], test: Float[Tensor, "test_rows columns"]
) -> tuple[Tensor, Tensor]:
    """Both matrices, minus the mean and divided by the standard deviation of `choose`.

    Columns that are constant in `choose` are only centred.
    """
    spread, mean = torch.std_mean(choose, dim=0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return (choose - mean) / spread, (test - mean) / spread


def logistic(
    x: NDArray[np.float32],
    positive: NDArray[np.bool_],
    weight: NDArray[np.float64] | None,
    x_test: NDArray[np.float32],
    inverse: float = 1.0,
    penalty: Penalty = "l2",
) -> NDArray[np.float32]:
    """Log odds on `x_test` by logistic regression on weighted rows; `inverse` is scikit-learn's inverse penalty C."""
    with one_thread():
        odds = logistic_model(inverse, penalty).fit(x, positive, weight).decision_function(x_test)
    return odds.astype(np.float32, copy=False)


def logistic_model(inverse: float = 1.0, penalty: Penalty = "l2") -> Any:
    """An unfitted logistic regression of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    settings: dict[str, Any] = {"C": inverse, "max_iter": 1000}
    if penalty == "l1":
        # liblinear penalises the intercept too; a large intercept_scaling makes that harmless. Separable rows have no
        # finite optimum under a weak penalty: a minute of further iterations changes the AUC by a hundredth, so
        # max_iter is small. In scikit-learn 1.8 `l1_ratio` replaced `penalty`.
        renamed = LogisticRegression().get_params()["penalty"] == "deprecated"
        settings |= {"solver": "liblinear", "intercept_scaling": 10.0, "max_iter": 30, "random_state": 0}
        settings |= {"l1_ratio": 1.0} if renamed else {"penalty": "l1"}
    return LogisticRegression(**settings)


def nearest(x: NDArray[np.float32], x_test: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k rows of `x` nearest to each row of `x_test`, ``[test_rows, k]``, by Euclidean distance."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors(x_test, return_distance=False)


def one_thread() -> AbstractContextManager[Any]:
    """Limits scikit-learn to one thread: its products are so small that synchronising threads costs more than they
    save."""
    return _thread_pools().limit(limits=1)


@lru_cache
def _thread_pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

"""Bootstrap intervals of AUC and F1, over samples or over groups of samples.

For a fixed score and threshold, test samples are resampled with replacement (Efron 1979), groups as wholes, since words
of a sentence are not independent. The AUC of weighted samples counts pairs,

    AUC_w = sum_{p positive, n negative} w_p w_n ([s_p > s_n] + [s_p = s_n] / 2) / (W_pos W_neg).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.binary_probes import f1_score, rank_auc
from sae.numerics.seeds import derive
from sae.numerics.statistics import Interval

DRAWS_AT_ONCE = 50


class ClassifierScores(NamedTuple):
    """AUC and F1 of a binary classifier, with intervals."""

    auc: Interval
    """Area under the ROC curve."""
    f1: Interval
    """F1 at the threshold."""


def classifier_scores(
    scores: Float[Tensor, " rows"],
    positive: Bool[Tensor, " rows"],
    threshold: float,
    groups: Int[Tensor, " rows"] | None = None,
    draws: int = 500,
    seed: int = 0,
) -> ClassifierScores:
    """AUC of the scores and F1 of ``scores >= threshold`` with 95% intervals; NaN if a class is empty.

    Samples with the same number in `groups` are resampled together.
    """
    value = (float(rank_auc(scores[:, None], positive[:, None])), f1_score(scores >= threshold, positive))
    s, y = scores.double().cpu().numpy(), positive.cpu().numpy()
    group = np.arange(len(s)) if groups is None else np.unique(groups.cpu().numpy(), return_inverse=True)[1]
    draw, n_groups = np.random.default_rng(derive("judged", seed)), int(group.max()) + 1
    resampled: list[np.ndarray] = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        times = draw.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=min(DRAWS_AT_ONCE, draws - start))
        weight = times[:, group].astype(np.float64)
        resampled.append(np.stack([_auc(s, y, weight), _f1(s >= threshold, y, weight)]))
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(np.concatenate(resampled, 1), [0.025, 0.975], axis=1)
    return ClassifierScores(*(Interval(v, float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)))


def _auc(s: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted AUC for each row of weights ``[draws, samples]``."""
    order = np.argsort(s, kind="stable")
    start = np.flatnonzero(np.concatenate([[True], np.diff(s[order]) > 0]))
    positive, negative = (np.add.reduceat(weight[:, order] * c[order], start, axis=1) for c in (y, ~y))
    below = negative.cumsum(1) - negative / 2
    total = positive.sum(1) * negative.sum(1)
    return np.divide((positive * below).sum(1), total, out=np.full(len(weight), np.nan), where=total > 0)


def _f1(predicted: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted F1 for each row of weights."""
    total = weight @ predicted + weight @ y
    return np.divide(2 * (weight @ (predicted & y)), total, out=np.zeros(len(weight)), where=total > 0)

"""Which hyper-parameter a probe takes: by rows that it was not fitted on, all of them training rows.

Kantamneni et al. 2025 part `n` training rows so: leave-two-out for at most 12, six folds for fewer than 128, else the
last ``min(n / 5, 100)`` for validation. Where we differ: a ranking of columns is part of the fit and never sees the
rows that it is judged on (there it is made once, on all training rows); rows of a document that has a validation row
are left out of the fit; a split whose parts do not both have both classes says nothing and is left out.

Leave-two-out with a pair of one class has no AUC, so what is left is the leave-pair-out AUC (Airola et al. 2011).
With three rows or fewer no split is left: there is no validation, and the AUC on the training rows, 1 for nearly every
probe, is no stand-in for it. The AUC is NaN then and the first setting is taken, which is the prior choice; so it is
where settings tie. Test rows and their labels are not among the arguments here.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sae.numerics.binary_probes import rank_auc
from sae.probing.probes import Probe, ProbeSetting

DIGITS = 9
"""To which AUCs are told apart: means of equal ones differ by rounding."""
LEAVE_TWO_OUT, FOLDED, FOLDS, LAST = 12, 128, 6, 100


class ValidationSplit(NamedTuple):
    """The rows to fit on and those to judge by."""

    fit: NDArray[np.int64]
    judge: NDArray[np.int64]


Why = Literal["validation", "tie", "prior"]
"""What decided: the validation AUC, the prior order among those that share the best one, or that order alone."""


class ValidatedSetting(NamedTuple):
    """A probe's setting, its validation AUC (NaN where there is none) and what decided."""

    setting: ProbeSetting
    auc: float
    why: Why


def parts(positive: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The validation rows of every split, by the rule above. Folds are stratified."""
    n = len(positive)
    if n <= LEAVE_TWO_OUT:
        return [np.array(pair) for pair in combinations(range(n), 2)]
    if n < FOLDED:
        by_class = np.argsort(positive, kind="stable")
        return [np.sort(by_class[fold::FOLDS]) for fold in range(FOLDS)]
    return [np.arange(n - min(n // 5, LAST), n)]


def splits(positive: NDArray[np.bool_], groups: NDArray[np.int64]) -> list[ValidationSplit]:
    """The splits that say something: both classes in both parts, and no document in both."""
    found: list[ValidationSplit] = []
    for judge in parts(positive):
        fit = np.flatnonzero(~np.isin(groups, groups[judge]))
        if all(len(np.unique(positive[part])) == 2 for part in (fit, judge)):
            found.append(ValidationSplit(fit, judge))
    return found


def choose(
    probe: Probe, x: NDArray[np.float32], positive: NDArray[np.bool_], groups: NDArray[np.int64], seed: int
) -> ValidatedSetting:
    """The setting with the best mean validation AUC, the earliest of those that tie."""
    settings = probe.settings(*x.shape)
    found = splits(positive, groups)
    if not found:
        return ValidatedSetting(settings[0], np.nan, "prior")
    aucs = [auc(probe.scores(x[s.fit], positive[s.fit], x[s.judge], settings, seed), positive[s.judge]) for s in found]
    mean = np.mean(aucs, axis=0).round(DIGITS)
    best = int(mean.argmax())
    return ValidatedSetting(
        settings[best], float(mean[best]), "tie" if (mean == mean[best]).sum() > 1 else "validation"
    )


def auc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The AUC of each column."""
    return rank_auc(torch.from_numpy(scores), torch.from_numpy(positive)[:, None])[0].numpy()

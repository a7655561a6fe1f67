"""Validation of probe hyper-parameters on held-out training rows.

Kantamneni et al. 2025 split `n` training rows as follows: leave-two-out for at most 12, six folds for fewer than 128,
otherwise the last ``min(n / 5, 100)`` for validation. Where we differ: a ranking of columns is part of the fit and is
not made on validation rows (in the paper's code it is made once, on all training rows); rows of a document with a
validation row are left out of the fit; and a split is left out unless both of its parts have both classes.

A leave-two-out pair of one class has no AUC, so leave-two-out becomes the leave-pair-out AUC (Airola et al. 2011). With
three rows or fewer no split remains. There is then no validation, and the training AUC, 1 for nearly every probe, is
not used instead: the AUC is NaN and the first setting is chosen, by the prior order. The first is also chosen among
settings that tie. Test rows and their labels are not available to the functions of this module.
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
"""The digits to which AUCs are compared: means of equal AUCs differ by rounding errors."""
LEAVE_TWO_OUT, FOLDED, FOLDS, LAST = 12, 128, 6, 100
"""The most rows for leave-two-out, the fewest for a single split, the number of folds, the most validation rows."""


class ValidationSplit(NamedTuple):
    """A split of training rows."""

    fit: NDArray[np.int64]
    """The rows that the probe is fitted to."""
    judge: NDArray[np.int64]
    """The validation rows."""


SelectionReason = Literal["validation", "tie", "prior"]
"""What decided: the validation AUC, the prior order among settings that share the best AUC, or that order alone."""


class ValidatedSetting(NamedTuple):
    """The chosen setting of a probe."""

    setting: ProbeSetting
    """The hyper-parameters."""
    auc: float
    """The mean validation AUC; NaN if there is no validation."""
    why: SelectionReason
    """What decided."""


def validation_rows(positive: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The validation rows of every split, by the rule of the module. Folds are stratified."""
    n = len(positive)
    if n <= LEAVE_TWO_OUT:
        return [np.array(pair) for pair in combinations(range(n), 2)]
    if n < FOLDED:
        by_class = np.argsort(positive, kind="stable")
        return [np.sort(by_class[fold::FOLDS]) for fold in range(FOLDS)]
    return [np.arange(n - min(n // 5, LAST), n)]


def splits(positive: NDArray[np.bool_], groups: NDArray[np.int64]) -> list[ValidationSplit]:
    """The usable splits: both classes in both parts, and no document in both parts."""
    usable: list[ValidationSplit] = []
    for judge in validation_rows(positive):
        fit = np.flatnonzero(~np.isin(groups, groups[judge]))
        if all(len(np.unique(positive[part])) == 2 for part in (fit, judge)):
            usable.append(ValidationSplit(fit, judge))
    return usable


def choose_setting(
    probe: Probe, x: NDArray[np.float32], positive: NDArray[np.bool_], groups: NDArray[np.int64], seed: int
) -> ValidatedSetting:
    """The setting with the best mean validation AUC, the earliest of those that tie."""
    settings = probe.settings(*x.shape)
    usable = splits(positive, groups)
    if not usable:
        return ValidatedSetting(settings[0], np.nan, "prior")
    aucs = [auc(probe.scores(x[s.fit], positive[s.fit], x[s.judge], settings, seed), positive[s.judge]) for s in usable]
    mean = np.mean(aucs, axis=0).round(DIGITS)
    best = int(mean.argmax())
    return ValidatedSetting(
        settings[best], float(mean[best]), "tie" if (mean == mean[best]).sum() > 1 else "validation"
    )


def auc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The AUC of each column of scores."""
    return rank_auc(torch.from_numpy(scores), torch.from_numpy(positive)[:, None])[0].numpy()

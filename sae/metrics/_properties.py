"""Binary properties of samples for the families `probing` and `coverage`: labels, or "feature g is active"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sae.metric import Evidence
from sae.numerics.binary_probes import best_threshold, f1_score, frequent_enough, rank_auc, spread_over
from sae.numerics.weak_cache import once_per_object
from sae.source import Batch


@dataclass(frozen=True, eq=False)
class Properties:
    """Binary properties of the samples of two splits, one column per property."""

    choose: Batch
    """Validation samples."""
    test: Batch
    """Test samples."""
    on_choose: Bool[Tensor, "choose_rows n_properties"]
    """Whether each validation sample has each property."""
    on_test: Bool[Tensor, "test_rows n_properties"]
    """Whether each test sample has each property."""

    def __len__(self) -> int:
        return self.on_test.shape[1]

    def measure(self, i: int, score: Tensor, threshold: float) -> tuple[float, float]:
        """AUC and F1 of `score` for property i on the test samples; F1 predicts it where ``score >= threshold``."""
        positive = self.on_test[:, i]
        return float(rank_auc(score[:, None], positive[:, None])), f1_score(score >= threshold, positive)

    def measure_single(self, i: int, on_choose: Tensor, on_test: Tensor) -> tuple[float, float]:
        """AUC and F1 of a score on the test samples, with the threshold of the best F1 on the validation samples."""
        return self.measure(i, on_test, best_threshold(on_choose, self.on_choose[:, i]))


@once_per_object
def properties_of(evidence: Evidence, most: int, min_count: int) -> Properties:
    """The binary properties that the evidence offers, computed once for all dictionaries.

    These are the labels where there are any, else the activity of at most `most` features. Every property has at
    least `min_count` samples of either class in both splits.
    """
    if evidence.labelled is not None:
        return labelled(*evidence.labelled, min_count)
    represented = None if evidence.truth is None else evidence.truth.represented
    return active_features(evidence.choose, evidence.test, represented, most, min_count)


def labelled(choose: Batch, test: Batch, min_count: int) -> Properties:
    """One property for each binary label and one for each class of the others, where frequent enough."""
    columns: list[tuple[Tensor, Tensor]] = []
    for name, label in choose.labels.items():
        classes = label.unique().tolist()
        positives = [1] if set(classes) <= {0, 1} else classes
        columns += [(label == c, test.labels[name] == c) for c in positives]
    on_choose, on_test = (torch.stack(half, dim=1) for half in zip(*columns, strict=True))
    usable = frequent_enough(min_count, on_choose, on_test)
    return Properties(choose, test, on_choose[:, usable], on_test[:, usable])


def active_features(
    choose: Batch, test: Batch, represented: Bool[Tensor, " n_features"] | None, most: int, min_count: int
) -> Properties:
    """'Feature g is active' for at most `most` represented features, spread evenly over the ranks of their frequencies
    and sorted from rare to frequent."""
    assert choose.codes is not None and test.codes is not None
    on_choose, on_test = choose.codes > 0, test.codes > 0
    usable = frequent_enough(min_count, on_choose, on_test)
    if represented is not None:
        usable &= represented
    feature = spread_over(on_choose, usable, most)
    return Properties(choose, test, on_choose[:, feature], on_test[:, feature])

"""Binary properties of rows: real labels, or 'feature g is active'."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sae.source import Batch


@dataclass(frozen=True, eq=False)
class Properties:
    """Properties of the rows of two batches, one column each."""

    choose: Batch
    test: Batch
    on_choose: Bool[Tensor, "choose_rows n_properties"]
    on_test: Bool[Tensor, "test_rows n_properties"]

    def __len__(self) -> int:
        return self.on_test.shape[1]


def labelled(choose: Batch, test: Batch, min_count: int) -> Properties:
    """Every label, and every class of a label with classes, with `min_count` rows of either class in both batches."""
    columns: list[tuple[Tensor, Tensor]] = []
    for name, label in choose.labels.items():
        classes = label.unique().tolist()
        positives = [1] if set(classes) <= {0, 1} else classes
        columns += [(label == c, test.labels[name] == c) for c in positives]
    on_choose, on_test = (torch.stack(half, dim=1) for half in zip(*columns, strict=True))
    usable = enough(min_count, on_choose, on_test)
    return Properties(choose, test, on_choose[:, usable], on_test[:, usable])


def active_features(
    choose: Batch, test: Batch, represented: Bool[Tensor, " n_features"] | None, most: int, min_count: int
) -> Properties:
    """'Feature g is active' for at most `most` of the represented features, evenly over the ranks of their frequencies,
    rare to frequent."""
    assert choose.codes is not None and test.codes is not None
    on_choose, on_test = choose.codes > 0, test.codes > 0
    usable = enough(min_count, on_choose, on_test)
    if represented is not None:
        usable &= represented
    candidates = usable.nonzero()[:, 0]
    by_frequency = candidates[on_choose[:, candidates].sum(0).argsort(stable=True)]
    n = min(most, len(by_frequency))
    feature = by_frequency[torch.linspace(0, max(0, len(by_frequency) - 1), n).round().long()]
    return Properties(choose, test, on_choose[:, feature], on_test[:, feature])


def enough(min_count: int, *halves: Bool[Tensor, "_ n_properties"]) -> Bool[Tensor, " n_properties"]:
    """Which properties have `min_count` rows of either class in every half."""
    positive = torch.stack([half.sum(0) for half in halves])
    n_rows = torch.tensor([len(half) for half in halves], device=positive.device)[:, None]
    return ((positive >= min_count) & (n_rows - positive >= min_count)).all(0)

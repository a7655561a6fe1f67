"""Harvesting: finite values are accepted, whatever their sum; others are refused with the hook's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sae.activations.corpus import PADDING, PositionSelection
from sae.activations.harvest import Harvest
from sae.model.hooked import Model
from sae.registry import UserError

Vectors = Callable[[float, Any], torch.Tensor]


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> Vectors:
    """Harvests a model whose activations are ``value * token``, in two batches of unequal length."""

    def vectors(value: float, store_dtype: Any) -> torch.Tensor:
        monkeypatch.setattr(
            Model, "activations_at", lambda m, t, a, h, fused: [(t * value)[..., None].expand(-1, -1, 3)]
        )
        harvest = Harvest(model, [{"acts": "hook"}], PositionSelection((1,), True), store_dtype, 2, 2)
        return harvest.vectors(tokens, at)[0]["acts"]

    tokens = torch.tensor([[1, 5, 6, 7], [1, 8, PADDING, PADDING], [1, 9, PADDING, PADDING]], dtype=torch.int32)
    at = tokens > 1
    at[0, 2] = False
    model = Model("toy", None, "cpu")
    return vectors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_vectors_are_those_at_the_positions_row_by_row(vectors: Vectors, dtype: str):
    found = vectors(1.0, dtype)
    assert found.dtype == getattr(torch, dtype)
    assert found.float().tolist() == [[token] * 3 for token in (5.0, 7.0, 8.0, 9.0)]


def test_large_values_whose_sum_is_not_finite_pass(vectors: Vectors):
    assert vectors(3e37, "float32").isfinite().all()
    assert vectors(7000.0, "float16").isfinite().all()


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e38, "float32"), (1e4, "float16")])
def test_values_that_are_not_finite_are_refused(vectors: Vectors, value: float, dtype: str):
    message = f"source.hook = 'hook': the activations of toy have NaN or infinite values in {dtype}"
    with pytest.raises(UserError, match=message):
        vectors(value, dtype)

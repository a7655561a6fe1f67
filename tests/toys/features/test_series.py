from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from sae.toys.features.series import PerFeature, numbers, probabilities

SERIES = TypeAdapter(PerFeature)


def drawn(value: object, n: int = 4) -> torch.Tensor:
    return numbers(SERIES.validate_python(value), n, torch.Generator().manual_seed(0), "field")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.3, [0.3, 0.3, 0.3, 0.3]),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]),
        ({"kind": "linear", "first": 0.4, "last": 0.1}, [0.4, 0.3, 0.2, 0.1]),
        ({"kind": "geometric", "ratio": 0.5, "first": 0.8}, [0.8, 0.4, 0.2, 0.1]),
        ({"kind": "geometric", "ratio": 0.5, "mean": 0.375}, [0.8, 0.4, 0.2, 0.1]),
        ({"kind": "zipf", "exponent": 1, "mean": 25 / 48}, [1, 1 / 2, 1 / 3, 1 / 4]),
        ({"kind": "zipf", "exponent": 1, "first": 0.4, "last": 0.1}, [0.4, 0.2, 0.1 + 0.3 * (1 / 12) / 0.75, 0.1]),
    ],
)
def test_numbers_by_hand(value: object, expected: list[float]):
    torch.testing.assert_close(drawn(value), torch.tensor(expected, dtype=torch.float64))


def test_random_numbers_have_their_distribution():
    low, high = 1e-4, 1e-1
    logs = drawn({"kind": "log_uniform", "low": low, "high": high}, 20_000).log10()
    assert -4 <= float(logs.min()) < -3.99 and -1.01 < float(logs.max()) <= -1
    assert abs(float(logs.mean()) + 2.5) < 0.03 and abs(float(logs.var()) - 9 / 12) < 0.02
    folded = drawn({"kind": "folded_normal", "mean": 0.0, "sd": 2.0}, 20_000)
    assert float(folded.min()) >= 0 and abs(float(folded.mean()) - 2 * (2 / torch.pi) ** 0.5) < 0.04


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.1], "field: a list of 1 where 4 numbers are needed"),
        ([0.1, 0.2, 1.5, 0.1], "field: number 2 is 1.5; a probability is above 0 and at most 1"),
        ({"kind": "linear", "first": 0.2, "last": -0.2}, "field: number 2 is -0.06667; a probability"),
        ({"kind": "zipf", "exponent": 2, "mean": 0.5}, "field: number 0 is 1.405; a probability"),
    ],
)
def test_numbers_that_are_no_probabilities_are_errors(value: object, message: str):
    with pytest.raises(ValueError, match=message):
        probabilities(SERIES.validate_python(value), 4, torch.Generator(), "field")


@pytest.mark.parametrize("table", [{"kind": "zipf"}, {"kind": "geometric", "ratio": 0.5}])
def test_exactly_one_scale_is_needed(table: dict[str, object]):
    for scale in ({}, {"mean": 0.1, "first": 0.2}):
        with pytest.raises(ValueError, match="give either"):
            SERIES.validate_python(table | scale)


def test_a_dumped_series_validates_to_the_same():
    for value in (0.2, [0.1, 0.2], {"kind": "zipf", "mean": 0.1}):
        once = SERIES.validate_python(value)
        assert SERIES.validate_python(SERIES.dump_python(once, mode="json")) == once

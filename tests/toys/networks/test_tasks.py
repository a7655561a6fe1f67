"""The functions that toy networks learn, against plain Python."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from sae.numerics.seeds import generator
from sae.toys.networks.tasks import TASKS, output_names, task

ROWS = torch.randn(40, 6, generator=generator("tasks")) * (torch.rand(40, 6, generator=generator("where")) < 0.6)

PLAIN = {
    "and": lambda a, b: float(a > 0 and b > 0),
    "or": lambda a, b: float(a > 0 or b > 0),
    "max": max,
    "max_absolute": lambda a, b: max(abs(a), abs(b)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_functions_of_pairs(name: str):
    of_sets, of_all = TASKS[name].target(ROWS), TASKS[f"all_{name}"].target(ROWS)
    for x, sets, every in zip(ROWS.tolist(), of_sets.tolist(), of_all.tolist(), strict=True):
        assert sets == pytest.approx([PLAIN[name](x[i], x[i + 1]) for i in (0, 2, 4)])
        assert every == pytest.approx([PLAIN[name](x[i], x[j]) for i, j in combinations(range(6), 2)])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("identity", lambda x: x),
        ("absolute", lambda x: [abs(v) for v in x]),
        ("square", lambda x: [v * v for v in x]),
        ("plus_relu", lambda x: [v + max(v, 0) for v in x]),
        ("max_of_three", lambda x: [max(x[:3]), max(x[3:])]),
    ],
)
def test_functions_of_numbers(name: str, plain):
    for x, y in zip(ROWS.tolist(), TASKS[name].target(ROWS).tolist(), strict=True):
        assert y == pytest.approx(plain(x))


def test_values_as_one_of_five():
    y = TASKS["one_hot"].target(torch.tensor([[0.0, 1, 5], [3, 2, 0]])).reshape(2, 3, 5)
    assert y[0].tolist() == [[0] * 5, [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert y[1].argmax(1).tolist()[:2] == [2, 1] and float(y[1, 2].sum()) == 0


def test_the_class_is_the_largest_feature_or_a_last_class_for_none():
    y = TASKS["classify"].target(torch.tensor([[0.0, 0.3, 0.9], [0.0, 0.0, 0.0], [0.4, 0.1, 0.0]]))
    assert y.argmax(1).tolist() == [1 + 1, 3, 0] and y.sum(1).tolist() == [1, 1, 1]


def test_a_reprojection_is_linear_with_unit_rows():
    rows = TASKS["reproject"].target(torch.eye(24))
    assert rows.shape == (24, 3)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("name", TASKS)
def test_widths_names_and_stacks_agree(name: str):
    found = task(name, 6)
    y = found.target(ROWS)
    assert y.shape == (40, found.n_outputs(6)) and len(output_names(name, 6)) == len(set(output_names(name, 6)))
    assert len(output_names(name, 6)) == y.shape[1]
    stacked = found.target(ROWS.reshape(2, 20, 6))
    torch.testing.assert_close(stacked.reshape(40, -1), y)
    if found.is_binary:
        assert set(y.unique().tolist()) <= {0.0, 1.0}


def test_unknown_and_unfitting_tasks_are_errors():
    with pytest.raises(ValueError, match="'adn' is not a known task: did you mean 'and'"):
        task("adn", 4)
    with pytest.raises(ValueError, match="n_features = 4: task = 'max_of_three' needs a multiple of 3"):
        task("max_of_three", 4)

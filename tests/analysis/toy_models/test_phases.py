"""Closed forms against Monte Carlo: each configuration is built and its loss is measured."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sae.analysis.toy_models.phases import (
    antipodal_below,
    ignored_loss,
    linear_optimum,
    phase_losses,
    phase_of,
    predicted,
)
from sae.registry import UserError

N = 400_000
CONFIGURATIONS = {
    (2, "ignored"): ([[1.0], [0.0]], [0, 1]),
    (2, "dedicated"): ([[0.0], [1.0]], [1, 0]),
    (2, "antipodal"): ([[1.0], [-1.0]], [0, 0]),
    (3, "ignored"): ([[1.0, 0], [0, 1], [0, 0]], [0, 0, 1]),
    (3, "dedicated"): ([[1.0, 0], [-1, 0], [0, 1]], [0, 0, 0]),
    (3, "antipodal"): ([[1.0, 0], [0, 1], [0, -1]], [0, 0, 0]),
}
"""For each phase, the weights and the outputs that have a bias at their mean."""


def measured(W: torch.Tensor, b: torch.Tensor, p: float, importance: torch.Tensor) -> tuple[float, float]:
    """The loss of ReLU(x W W^T + b) on random samples, and its standard error."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(N, len(W), generator=draw) * (torch.rand(N, len(W), generator=draw) < p)
    each = ((x - (x @ W @ W.T + b).relu()).square() * importance).sum(1).double()
    return float(each.mean()), float(each.std()) / math.sqrt(N)


@pytest.mark.parametrize("case", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize(("p", "r"), [(0.8, 1.0), (0.3, 0.4), (0.1, 3.0)])
def test_every_configuration_loses_what_its_closed_form_says(
    case: tuple[Literal[2, 3], Literal["ignored", "dedicated", "antipodal"]], p: float, r: float
):
    n, phase = case
    weights, biased = CONFIGURATIONS[case]
    if case == (3, "dedicated") and p > 4 / 7:  # two dense features do not share: one of them is left out
        weights, biased = [[1.0, 0], [0, 0], [0, 1]], [0, 1, 0]
    importance = torch.ones(n)
    importance[-1] = r
    mean, error = measured(torch.tensor(weights), torch.tensor(biased) * p / 2, p, importance)
    assert abs(mean - phase_losses(p, r, n)[phase]) < 4.5 * error
    assert phase_of(torch.tensor(weights)) == phase


def test_the_linear_optimum_is_that_of_the_demo_and_is_reached():
    importance = 0.7 ** torch.arange(20.0)
    found = [linear_optimum(p, importance, 5) for p in (1.0, 0.3, 0.1, 0.01)]
    assert found == pytest.approx([2.3232e-3, 2.1606e-3, 8.596e-4, 9.223e-5], rel=2e-4)
    W, p = torch.eye(20, 5), 0.3
    b = torch.where(torch.arange(20) < 5, 0, p / 2)
    mean, error = measured(W, b, p, importance)  # the bias is positive and W W^T the identity, so ReLU does nothing
    assert abs(mean / 20 - found[1]) < 4.5 * error / 20


def test_no_linear_model_of_as_many_dimensions_is_better():
    """Principal components of the weighted covariance, in float64: the bound for any W of that rank, tied or not."""
    p, importance = 0.2, torch.tensor([1.0, 0.7, 0.5, 0.1]).double()
    covariance = torch.diag(importance) * ignored_loss(p)
    rest = torch.linalg.eigvalsh(covariance)[:2].sum()
    assert linear_optimum(p, importance, 2) == pytest.approx(float(rest) / 4)


@settings(max_examples=200, deadline=None)
@given(p=st.floats(0.01, 1), r=st.floats(0.1, 10))
def test_two_features_share_a_dimension_below_the_boundary(p: float, r: float):
    assume(abs(p - antipodal_below(r)) > 1e-6 and abs(r - 1) > 1e-6)
    expected = "antipodal" if p < antipodal_below(r) else "ignored" if r < 1 else "dedicated"
    assert predicted(p, r) == expected


def test_the_boundary_meets_at_four_sevenths():
    assert antipodal_below(1.0) == pytest.approx(4 / 7) == pytest.approx(antipodal_below(1 + 1e-9))
    assert antipodal_below(0.1) < antipodal_below(1.0) > antipodal_below(10.0)


def test_of_three_features_the_most_important_is_alone():
    assert predicted(0.05, 2.0, 3) == "dedicated" and predicted(0.05, 0.5, 3) == "antipodal"
    assert predicted(0.95, 0.1, 3) == "ignored" and predicted(0.5, 0.9, 3) == "antipodal"


def test_a_blurred_point_is_called_confused():
    assert phase_of(torch.tensor([[0.7071], [0.7071]])) == "confused"
    oblique = torch.tensor([[1.0, 0], [0, 1], [-0.7, -0.7]])
    assert phase_of(oblique) == "confused"
    assert phase_of(torch.tensor([[0.05, 0], [0, 1], [0, -1]])) == "antipodal"
    assert phase_of(torch.tensor([[1.1], [-0.45]])) == "ignored"


@pytest.mark.parametrize(("p", "r", "n"), [(0.0, 1.0, 2), (1.1, 1.0, 2), (0.5, 0.0, 2), (0.5, 1.0, 4)])
def test_what_is_no_system_is_refused(p: float, r: float, n: int):
    with pytest.raises(UserError, match="give 0 < p <= 1, r > 0, and 2 or 3"):
        phase_losses(p, r, n)

"""A few samples of very large norm: the score of an ordinary sample, and the warning of a report."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.report.findings import judge, sentences
from pipelines.report.settings_table import ScoredRow, settings_of
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.reconstruction import Config
from sae.source import Batch

D_IN, N = 16, 4000
G = torch.Generator().manual_seed(0)
ORDINARY = torch.randn(N, D_IN, generator=G) + 1
SINK = torch.nn.functional.one_hot(torch.tensor(0), D_IN).float() * 1000 * ORDINARY.norm(dim=-1).mean()


def scores(d: Relu, x: torch.Tensor, targets: torch.Tensor | None = None) -> dict[str, float]:
    batch = Batch(x, targets=targets)
    return dict(Config().score(Case(d, Evidence(batch, batch))).scalars)


def one_direction() -> Relu:
    """A useless dictionary: it reconstructs the first coordinate alone."""
    direction = torch.nn.functional.one_hot(torch.tensor([0]), D_IN).float()
    return Relu.tied(direction)


def with_sinks(share: float) -> torch.Tensor:
    x = ORDINARY.clone()
    x[:: round(1 / share)] = SINK
    return x


@pytest.mark.parametrize("share", [0.005, 0.05])
def test_outliers_do_not_hide_a_useless_dictionary(share: float):
    """Half a percent of the samples at a thousand times the norm gave an fvu of 1e-4 to a dictionary that reconstructs
    nothing of the others."""
    before, s = scores(one_direction(), ORDINARY), scores(one_direction(), with_sinks(share))
    assert s["fvu"] < 0.001 and s["outlier_variance"] > 0.15
    assert s["fvu_median"] == pytest.approx(before["fvu_median"], rel=0.05) and before["fvu_median"] > 1


def test_without_outliers_it_is_close_to_the_fvu():
    """Of samples that are alike the median is near the mean."""
    d = Relu.tied(torch.cat([torch.eye(D_IN)[:8], -torch.eye(D_IN)[:8]]))
    s = scores(d, ORDINARY - 1)
    assert s["fvu_median"] == pytest.approx(s["fvu"], rel=0.05) and 0.01 < s["outlier_variance"] < 0.04


def test_closed_form_and_limits():
    """0 for an exact copy, 1 for a constant at the mean, the formula by hand; NaN where nothing varies."""
    exact = Relu.tied(torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]))
    assert scores(exact, ORDINARY)["fvu_median"] < 1e-10
    x = torch.tensor([[-3.0], [-1.0], [0.0], [1.0], [3.0]])
    half = Relu(torch.eye(1), torch.eye(1) / 2, torch.zeros(1), torch.zeros(1))
    s = scores(half, x)
    assert s["fvu_median"] == pytest.approx(0.25)  # x < 0: 1, x > 0: 1/4, the lower of the two in the middle
    assert s["outlier_variance"] == pytest.approx(9 / 20)
    still = scores(half, torch.ones(20, 1))
    assert math.isnan(still["fvu_median"]) and math.isnan(still["outlier_variance"])


def test_targets_are_what_is_reconstructed():
    """Of a transcoder the targets count, not the activations that it reads."""
    d = one_direction()
    copied = scores(d, ORDINARY)
    assert scores(d, ORDINARY, ORDINARY) == pytest.approx(copied, rel=0, abs=0, nan_ok=True)
    assert scores(d, ORDINARY, with_sinks(0.005))["outlier_variance"] > 0.9


@pytest.mark.parametrize(("share", "warned"), [(0.98, True), (0.5, False), (math.nan, False)])
def test_a_report_warns_where_few_samples_decide(share: float, warned: bool):
    """The report named the fvu without a word on the samples that decide it."""
    row = {"source": "s", "method": "relu", "n_latents": 8, "l1": 0.1, "seed": 0}
    values = {"fvu": 0.0001, "fvu_median": 0.91, "l0": 2.0, "outlier_variance": share}
    settings = settings_of([ScoredRow(row, values)])
    verdict = judge(settings, "fvu")
    assert verdict is not None
    text = " ".join(sentences(settings, verdict))
    words = "98% of the variance is in 1% of the samples, such as attention sinks. The fvu of relu"
    assert (words in text and "that of its median sample 0.910" in text) == warned
    assert ("few samples decide" in text) == warned

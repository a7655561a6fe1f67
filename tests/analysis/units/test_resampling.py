"""Intervals of AUC and F1: weighted pairs by hand, coverage, whole groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from sae.analysis.units.resampling import _auc, _f1, classifier_scores  # pyright: ignore[reportPrivateUsage]
from sae.numerics.binary_probes import rank_auc
from sae.numerics.seeds import generator


def test_weighted_scores_are_those_of_repeated_rows():
    draw = np.random.default_rng(0)
    s = draw.integers(0, 6, 60).astype(float)
    y = draw.random(60) < 0.4
    weight = draw.integers(0, 4, (3, 60)).astype(float)
    for w, auc, f1 in zip(weight, _auc(s, y, weight), _f1(s >= 3, y, weight), strict=True):
        again = np.repeat(np.arange(60), w.astype(int))
        expected = rank_auc(torch.from_numpy(s[again])[:, None], torch.from_numpy(y[again])[:, None])
        assert auc == pytest.approx(float(expected))
        hits = (y[again] & (s[again] >= 3)).sum()
        assert f1 == pytest.approx(2 * hits / (y[again].sum() + (s[again] >= 3).sum()))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    draw, inside = generator("coverage"), 0
    for i in range(100):
        y = torch.rand(300, generator=draw) < 0.3
        s = torch.randn(300, generator=draw) + y
        found = classifier_scores(s, y, 0.5, draws=200, seed=i)
        inside += found.auc.low <= norm.cdf(1 / np.sqrt(2)) <= found.auc.high
    assert 85 <= inside <= 100


def test_rows_that_repeat_each_other_widen_the_interval_only_as_groups():
    draw = generator("groups")
    y = torch.rand(200, generator=draw) < 0.5
    s = torch.randn(200, generator=draw) + y
    one = classifier_scores(s, y, 0.5).auc
    groups = torch.arange(200).repeat_interleave(5)
    blind, aware = (
        classifier_scores(s.repeat_interleave(5), y.repeat_interleave(5), 0.5, g).auc for g in (None, groups)
    )
    assert blind.value == pytest.approx(one.value) == aware.value
    assert blind.high - blind.low < 0.6 * (one.high - one.low)
    assert aware.high - aware.low == pytest.approx(one.high - one.low, rel=0.15)

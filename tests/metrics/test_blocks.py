"""Scores are the same however little is held in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae.dictionaries.topk import TopK
from sae.metric import Case, Evidence, MetricConfig, gather_evidence, scores_of
from sae.registry import configurable
from sae.source import Batch
from sae.sources.features import Config as Features

ROWS, N = 1200, 40


def evidence() -> Evidence:
    activity = {"kind": "tree", "parents": [-1] * 12 + [0, 1, 0, 1], "probability": [0.3] * 2 + [0.15] * 14}
    source = Features(n_features=16, d_in=12, activity=activity, noise=0.02, seed=5).build()  # pyright: ignore
    found = gather_evidence(source, ROWS)
    assert found.truth is not None
    planes = torch.linalg.qr(found.truth.directions[:2].T).Q.T[None]
    truth = replace(found.truth, represented=torch.arange(16) != 9)
    return replace(found, truth=truth, subspaces=planes)


def labelled(found: Evidence) -> Evidence:
    """The same with labels in place of true codes."""
    halves: list[Batch] = []
    for batch in (found.choose, found.test):
        assert batch.codes is not None
        labels = {"is": (batch.codes[:, 0] > 0).long(), "number": (batch.codes[:, :4] > 0).long().sum(1)}
        halves.append(replace(batch, codes=None, labels=labels))
    choose, test = halves
    return Evidence(choose, test, labelled=(choose, test))


def dictionary() -> TopK:
    truth = evidence().truth
    assert truth is not None
    g = torch.Generator().manual_seed(1)
    rows = truth.directions.repeat(3, 1)[:N] + 0.2 * torch.randn(N, 12, generator=g)
    return TopK(rows.T.contiguous(), rows, torch.zeros(N), torch.zeros(12), k=4)


@pytest.mark.parametrize("has", ["codes", "labels"])
@pytest.mark.parametrize("kept", ["without zeros", "not at all"])
def test_scores_do_not_depend_on_what_is_held(has: str, kept: str, monkeypatch: pytest.MonkeyPatch):
    given = evidence() if has == "codes" else labelled(evidence())
    metrics: list[MetricConfig] = [
        module.Config()
        for name, module in configurable("metrics").items()
        if name not in ("downstream", "transfer") and module.Config().served_by(given.provides)
    ]
    before = scores_of(metrics, Case(dictionary(), given))
    monkeypatch.setattr("sae.metric.BLOCK_BYTES", 4 * N * 170)
    monkeypatch.setattr(
        "sae.numerics.active_codes.KEPT_CODE_BYTES", ROWS // 2 * N * 4 - 1 if kept == "without zeros" else 0
    )
    monkeypatch.setattr("sae.numerics.active_codes.GROUP_ENTRIES", 900)
    monkeypatch.setattr("sae.numerics.active_codes.PART_ENTRIES", 300)
    monkeypatch.setattr("sae.numerics.assignment.DENSE_PAIRS", 50)
    monkeypatch.setattr("sae.numerics.assignment.CANDIDATES", 3)
    for family in ("codes", "_correlations", "coverage", "splitting", "_feature_firing"):
        monkeypatch.setattr(f"sae.metrics.{family}._CELLS", 500)
    monkeypatch.setattr("sae.metrics.causal._CELLS", 2000)
    monkeypatch.setattr("sae.metrics.hedging._PAIRS", 20)
    after = scores_of(metrics, Case(dictionary(), given))
    assert after.scalars == pytest.approx(dict(before.scalars), rel=1e-5, abs=1e-7, nan_ok=True)
    assert set(after.vectors) == set(before.vectors)
    for name, vector in before.vectors.items():
        torch.testing.assert_close(after.vectors[name], vector, rtol=1e-4, atol=1e-5, equal_nan=True)

"""The model's loss under a splice: exact in the limits, and cached where the dictionary does not matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics import downstream
from sae.metrics.downstream import Config, recovered
from sae.model.hooked import Model
from sae.model.site import Site
from sae.source import Batch
from tests.texts import expected_text_for

D = 16
HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def evidence(tiny_models: Mapping[str, Path]) -> Evidence:
    model = Model.boot(str(tiny_models["llama"]))
    text = expected_text_for(model)
    acts = model.activations(text.tokens, text.attended, HOOK)[text.kept]
    return Evidence(Batch(acts), Batch(acts), model=Site(HOOK, text, lambda: model))


def identity() -> Relu:
    """``x = ReLU(x) - ReLU(-x)``: a dictionary that loses nothing."""
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    return Relu(both.T.contiguous(), both, torch.zeros(2 * D), torch.zeros(D))


def constant(x: torch.Tensor) -> Relu:
    return Relu(torch.zeros(D, 4), torch.zeros(4, D), torch.zeros(4), x)


def score(d: Relu, evidence: Evidence, **settings: int) -> Mapping[str, float]:
    return Config(**settings).score(Case(d, evidence)).scalars


def test_a_perfect_dictionary_loses_nothing(evidence: Evidence):
    s = score(identity(), evidence)
    assert s["ce_spliced"] == s["ce_clean"] and s["ce_increase"] == 0 and s["kl"] == 0
    assert s["ce_recovered_mean"] == s["ce_recovered_zero"] == 1


def test_a_constant_at_the_mean_or_zero_recovers_none_of_that_ablation(evidence: Evidence):
    mean = score(constant(evidence.choose.acts.double().mean(0).float()), evidence)
    zero = score(constant(torch.zeros(D)), evidence)
    assert mean["ce_recovered_mean"] == pytest.approx(0, abs=1e-6) and mean["ce_spliced"] != mean["ce_clean"]
    assert zero["ce_recovered_zero"] == pytest.approx(0, abs=1e-6) and zero["kl"] > 0


def test_figures_equal_a_plain_computation(evidence: Evidence):
    g = torch.Generator().manual_seed(1)
    d = Relu(torch.randn(D, 8, generator=g), torch.randn(8, D, generator=g), torch.zeros(8), torch.zeros(D))
    assert evidence.model is not None
    text, model = evidence.model.text, evidence.model.model
    p = model.logits(text).double().log_softmax(-1)
    q = model.logits(text, HOOK, lambda x: d.decode(d.encode(x))).double().log_softmax(-1)
    losses, spliced, kl = [], [], []
    for i in range(10):
        for t in range(11):
            if text.kept[i, t] and text.kept[i, t + 1]:
                target = text.tokens[i, t + 1]
                losses.append(-p[i, t, target])
                spliced.append(-q[i, t, target])
                kl.append((p[i, t].exp() * (p[i, t] - q[i, t])).sum())
    s = score(d, evidence, rows_at_once=3)
    for name, values in (("ce_clean", losses), ("ce_spliced", spliced), ("kl", kl)):
        assert s[name] == pytest.approx(float(torch.stack(values).mean()), rel=1e-5)
    assert s["ce_increase"] == pytest.approx(s["ce_spliced"] - s["ce_clean"])


def test_losses_without_the_dictionary_are_computed_once(evidence: Evidence, monkeypatch: pytest.MonkeyPatch):
    passes = 0
    real = Model.logits

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return real(*args, **kwargs)  # pyright: ignore

    monkeypatch.setattr(Model, "logits", counted)
    first = score(identity(), evidence, rows_at_once=5)
    assert passes == 2 * 4  # two pieces: clean, mean, zero, spliced
    score(constant(torch.zeros(D)), evidence, rows_at_once=5)
    assert passes == 2 * 5
    monkeypatch.setattr(downstream, "KEPT_BYTES", 0)
    assert score(identity(), Evidence(evidence.choose, evidence.test, model=evidence.model)) == pytest.approx(first)


def test_the_number_of_tokens_is_limited_to_whole_rows(evidence: Evidence):
    assert evidence.model is not None
    first = score(identity(), evidence, n_tokens=15)
    text = evidence.model.text[:2]  # 10 predictions count in a row
    two = Evidence(evidence.choose, evidence.test, model=Site(HOOK, text, lambda: evidence.model.model))  # pyright: ignore
    assert first == score(identity(), two, n_tokens=20) != score(identity(), evidence, n_tokens=25)


def test_recovered_by_hand():
    assert recovered(1.0, 2.0, 5.0) == 0.75
    assert math.isnan(recovered(1.0, 1.0, 1.0))  # the ablation does nothing
    assert math.isnan(recovered(1.0, 1.02, 0.98))  # it lowers the loss: 2.0 would look like a good result
    assert math.isnan(recovered(1.0, 1.02, 1.01, error=0.006))
    assert recovered(1.0, 1.02, 1.01, error=0.004) == pytest.approx(-1)


def test_neither_order_nor_scale_of_latents_matters(evidence: Evidence):
    g = torch.Generator().manual_seed(2)
    d = Relu(torch.randn(D, 8, generator=g), torch.randn(8, D, generator=g), torch.zeros(8), torch.zeros(D))
    order, factor = torch.randperm(8, generator=g), 2.0 ** torch.arange(8)
    moved = Relu((d.W_enc * factor)[:, order], (d.W_dec / factor[:, None])[order], d.b_enc, d.b_dec)
    before = score(d, evidence)
    assert score(moved, evidence) == pytest.approx(dict(before), rel=1e-4) and before["ce_increase"] != 0

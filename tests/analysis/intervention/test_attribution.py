"""Attribution: contributions are derivatives of edits, and add up to known totals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae
from sae.analysis.intervention.attribution import attribute
from sae.analysis.intervention.edits import scale, zero
from sae.model.hooked import Model
from sae.registry import UserError
from tests.analysis.intervention.test_splicing import HOOK, NEXT, dictionary, logits, tokens


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_models: Mapping[str, Path]) -> Model:
    return Model.boot(str(tiny_models[request.param]))


def number(logits: Tensor) -> Tensor:
    return logits[0, -1, 7] - logits[0, -1, 9]


def test_the_effect_is_the_slope_of_what_scaling_a_latent_does(model: Model) -> None:
    x, places = tokens(model), {HOOK: dictionary(0), NEXT: dictionary(1)}
    found = attribute(model, places, x, number)
    clean = number(logits(model, x))
    for place in places:
        latent = int(found[place].effect.total().abs().argmax())
        for by in (1e-2, -1e-2):
            with sae.splice(model, places, edits={place: scale(latent, by=1 + by)}):
                change = (number(logits(model, x)) - clean) / by
            assert float(change) == pytest.approx(float(found[place].effect.total()[latent]), rel=0.05)


def test_integrated_effects_add_up_to_what_ablating_all_latents_does(model: Model) -> None:
    x, places = tokens(model), {HOOK: dictionary(0), NEXT: dictionary(1)}
    found = attribute(model, places, x, number, method="integrated", steps=256)
    clean = number(logits(model, x))
    for place in places:
        with sae.splice(model, places, edits={place: zero(*range(24))}):
            lost = clean - number(logits(model, x))
        assert float(found[place].effect.value.sum()) == pytest.approx(float(lost), rel=2e-3, abs=1e-3)


def test_effects_are_where_codes_are_and_no_later_token_has_one(model: Model) -> None:
    x = tokens(model)
    found = attribute(model, {HOOK: dictionary()}, x, lambda logits: logits[1, 3, 7])[HOOK]
    with sae.splice(model, {HOOK: dictionary()}) as spliced:
        logits(model, x)
    assert torch.equal(found.codes.dense(), spliced.codes[HOOK].dense())
    effect = found.effect.dense()
    assert bool(effect[1, :4].any()) and not bool(effect[1, 4:].any()) and not bool(effect[[0, 2]].any())
    assert bool(found.error[1, :4].any()) and not bool(found.error[1, 4:].any())


def test_latents_bias_and_error_make_up_the_slope_along_the_activations(model: Model) -> None:
    # x = sum_j z_j W_j + b_dec + error, so that x . dm/dx is the sum of their parts.
    x, d = tokens(model), dictionary()
    found = attribute(model, {HOOK: d}, x, number)[HOOK]
    shift = torch.zeros(3, 9, 16, requires_grad=True)
    with model.bridge.hooks(fwd_hooks=[(HOOK, lambda acts, hook: acts + shift)]):
        slope = torch.autograd.grad(number(model.bridge(x, return_type="logits")), shift)[0]
    acts = model.activations(x, torch.ones_like(x).bool(), HOOK)
    parts = found.effect.value.sum() + found.error.sum() + (slope @ d.b_dec).sum()
    assert float(parts) == pytest.approx(float((slope * acts).sum()), rel=1e-4)


def test_what_cannot_be_asked_is_said(model: Model) -> None:
    x = tokens(model)
    with pytest.raises(UserError, match="return one differentiable value"):
        attribute(model, {HOOK: dictionary()}, x, lambda logits: logits[0, 0])

"""A transcoder spliced into a model: read at the hook, written at the target, in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.metric import Case, Evidence
from sae.metrics.downstream import Config
from sae.model.hooked import Model
from sae.model.site import Site
from sae.source import Batch
from tests.texts import expected_text_for

D = 16
HOOK, TARGET = "blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"


@dataclass(frozen=True, eq=False)
class Copy(Dictionary):
    """Stands in for a perfect transcoder: ``decode(encode(x))`` is the MLP itself."""

    kind: ClassVar[str] = "copy"
    mlp: Any = None

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return self.mlp(z)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


def evidence_of(model: Model, hook: str = HOOK, target: str = TARGET) -> Evidence:
    text = expected_text_for(model)
    x, y = (a[text.kept] for a in model.activations_at(text.tokens, text.attended, [hook, target]))
    return Evidence(Batch(x, targets=y), Batch(x, targets=y), model=Site(hook, text, lambda: model, target))


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_models: Mapping[str, Path]) -> Model:
    return Model.boot(str(tiny_models[request.param]))


def copy_of(model: Model, layer: int = 0) -> Copy:
    from transformers import AutoModelForCausalLM

    inside = AutoModelForCausalLM.from_pretrained(model.name)  # not the Bridge's own, which has hooks
    block = inside.transformer.h[layer] if hasattr(inside, "transformer") else inside.model.layers[layer]
    d = model.d_model
    return Copy(torch.zeros(d, 1), torch.zeros(1, d), torch.zeros(1), torch.zeros(d), mlp=block.mlp)


def constant(x: Tensor) -> Relu:
    return Relu(torch.zeros(D, 4), torch.zeros(4, D), torch.zeros(4), x)


def score(d: Dictionary, evidence: Evidence) -> Mapping[str, float]:
    return Config(rows_at_once=4).score(Case(d, evidence)).scalars


def test_an_exact_copy_of_the_mlp_loses_nothing(model: Model):
    s = score(copy_of(model), evidence_of(model))
    assert s["ce_spliced"] == pytest.approx(s["ce_clean"], abs=1e-6) and s["kl"] == pytest.approx(0, abs=1e-6)
    assert abs(s["ce_mean"] - s["ce_clean"]) > 1e-3 and abs(s["ce_zero"] - s["ce_clean"]) > 1e-3
    assert s["ce_recovered_mean"] == pytest.approx(1, abs=1e-3) == s["ce_recovered_zero"]


def test_the_ablations_are_at_the_target(model: Model):
    evidence = evidence_of(model)
    mean = score(constant(evidence.choose.wanted.double().mean(0).float()), evidence)
    zero = score(constant(torch.zeros(D)), evidence)
    assert mean["ce_spliced"] == mean["ce_mean"] and mean["ce_recovered_mean"] == 0
    assert zero["ce_spliced"] == zero["ce_zero"] and zero["ce_recovered_zero"] == 0
    plain = Evidence(
        Batch(evidence.choose.wanted),
        Batch(evidence.test.wanted),
        model=Site(TARGET, expected_text_for(model), lambda: model),
    )
    for name in ("ce_clean", "ce_mean", "ce_zero"):  # those of an autoencoder at the target
        assert zero[name] == score(constant(torch.zeros(D)), plain)[name]


def test_the_target_receives_the_output_for_the_hook_activations_of_the_same_pass(model: Model):
    text = expected_text_for(model)
    seen: list[Tensor] = []
    point = model.bridge.hook_dict["blocks.0.hook_resid_post"]
    x, y, out = model.activations_at(text.tokens, text.attended, [HOOK, TARGET, "blocks.0.hook_resid_post"])
    point.add_hook(lambda acts, hook: seen.append(acts.clone()))
    model.logits(text, HOOK, lambda x: 2 * x + 1, TARGET)
    point.remove_hooks()
    expected = torch.where(text.kept[..., None], out - y + 2 * x + 1, out)
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(seen[0][~text.kept], out[~text.kept])  # excluded positions pass unedited


def test_a_target_before_its_hook_is_an_error_of_one_line(model: Model):
    for hook, target in ((TARGET, HOOK), ("blocks.1.mlp.hook_in", TARGET)):
        with pytest.raises(ValueError, match=f"target '{target}' comes before hook '{hook}'") as error:
            model.logits(expected_text_for(model), hook, lambda x: x, target)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="comes before"):
            model.check_target(hook, target)
    assert torch.isfinite(model.logits(expected_text_for(model))).all()  # no hook is left behind
    with pytest.raises(ValueError, match="would not reach the residual stream"):
        model.logits(expected_text_for(model), HOOK, lambda x: x, "blocks.1.hook_resid_mid")
    model.check_target(HOOK, TARGET)
    model.check_target("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")


def test_an_exact_copy_of_a_trained_mlp(shared_data: Path):
    folder = shared_data / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    model = Model.boot(str(folder))
    evidence = evidence_of(model, "blocks.2.mlp.hook_in", "blocks.2.mlp.hook_out")
    s = score(copy_of(model, layer=2), evidence)
    assert s["ce_spliced"] == pytest.approx(s["ce_clean"], abs=1e-5) and s["kl"] == pytest.approx(0, abs=1e-6)

"""Models that are not what their checkpoint says: missing, unused and misshapen weights, and missing packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae
from sae.analysis.attribution import attribute
from sae.analysis.latents.weights import logits
from sae.metric import Case, gather_evidence
from sae.metrics.downstream import Config as Downstream
from sae.model.hooked import Model
from sae.registry import UserError
from tests.streaming import build, words
from tests.texts import any_dictionary, text_for

HOOK = "blocks.1.hook_resid_post"
WEIGHT = "model.layers.1.mlp.down_proj.weight"


def changed(
    folder: Path, into: Path, change: Callable[[dict[str, Tensor]], object], config: Mapping[str, Any] | None = None
) -> str:
    """A copy of a model's folder with other weights, and with other entries in its config."""
    into.mkdir()
    for file in folder.iterdir():
        (into / file.name).write_bytes(file.read_bytes())
    weights = load_file(into / "model.safetensors")
    change(weights)
    save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((into / "config.json").read_text()) | dict(config or {})
    (into / "config.json").write_text(json.dumps(settings))
    return str(into)


@pytest.fixture
def headless(tiny_models: Mapping[str, Path], tmp_path: Path) -> str:
    return changed(tiny_models["llama"], tmp_path / "headless", lambda weights: weights.pop("lm_head.weight"))


def refused(name: str) -> str:
    with pytest.raises(UserError) as error:
        Model.boot(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_weight_that_the_checkpoint_lacks_is_named(tiny_models: Mapping[str, Path], tmp_path: Path):
    """A weight missing from the checkpoint was filled with random numbers without a word."""
    message = refused(changed(tiny_models["llama"], tmp_path / "m", lambda weights: weights.pop(WEIGHT)))
    assert f"its checkpoint lacks {WEIGHT}; give a complete checkpoint" in message


def test_the_story_model_without_a_weight_is_refused(shared_data: Path, tmp_path: Path):
    """A copy of the story model without one weight ran, with activations that were 15% off."""
    folder = shared_data / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    assert WEIGHT in refused(changed(folder, tmp_path / "m", lambda weights: weights.pop(WEIGHT)))
    # Its head is tied to its embedding, so a checkpoint without one is complete.
    assert Model.boot(str(folder)).missing_head == ()


def test_several_missing_weights_are_counted(tiny_models: Mapping[str, Path], tmp_path: Path):
    """A checkpoint whose names have another prefix gave a wholly random model."""

    def prefixed(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            weights[f"wrapped.{name}"] = weights.pop(name)

    assert " more; give a complete checkpoint" in refused(changed(tiny_models["llama"], tmp_path / "m", prefixed))


@pytest.mark.parametrize(
    ("change", "config"),
    [
        (lambda weights: None, {"num_hidden_layers": 1}),
        (lambda weights: weights.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}), {}),
        (lambda weights: weights.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(4)}), {}),
    ],
    ids=["layer", "bias", "norm"],
)
def test_weights_of_a_part_that_the_config_leaves_out_are_refused(
    tiny_models: Mapping[str, Path], tmp_path: Path, change: Any, config: dict[str, Any]
):
    """A layer, a bias or a norm of the checkpoint that config.json does not mention was left out without a word."""
    message = refused(changed(tiny_models["llama"], tmp_path / "m", change, config))
    assert "has weights that a model of this config.json does not use: model.layers." in message


def test_constants_and_other_heads_in_a_checkpoint_are_left_alone(tiny_models: Mapping[str, Path], tmp_path: Path):
    """Older checkpoints carry rotary frequencies, and some a second head; neither is a mistake."""

    def more(weights: dict[str, Tensor]) -> None:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
        weights["score.weight"] = torch.ones(2, 16)

    assert Model.boot(changed(tiny_models["llama"], tmp_path / "m", more)).no_logits is None


def test_a_weight_of_another_shape_is_named(tiny_models: Mapping[str, Path], tmp_path: Path):
    """A weight of another shape than config.json says ended in a traceback that named nothing."""
    message = refused(
        changed(tiny_models["llama"], tmp_path / "m", lambda weights: weights.update({WEIGHT: torch.ones(3, 3)}))
    )
    assert f"has other shapes than config.json says for {WEIGHT}" in message


def test_without_the_output_head_activations_are_right_and_logits_are_withheld(
    headless: str, tiny_models: Mapping[str, Path]
):
    """A checkpoint without its output head gave a loss and effects of a random head."""
    whole, model = Model.boot(str(tiny_models["llama"])), Model.boot(headless)
    text, lacks = text_for(model), "its checkpoint lacks lm_head.weight"
    one, other = (m.activations(text.tokens, text.attended, HOOK) for m in (whole, model))
    assert torch.equal(one, other)
    for read in (
        lambda: model.logits(text),
        lambda: model.losses(text),
        lambda: logits(torch.ones(1, 16), model, 3),
        lambda: model.width("unembed.hook_out"),
        lambda: attribute(model, {}, text.tokens, torch.sum),
    ):
        with pytest.raises(UserError, match=r"lm_head\.weight"):
            read()
    assert lacks in str(model.no_logits)
    assert bool(model.bridge(text.tokens).isnan().all())  # whoever reads them from the Bridge gets no random numbers


def test_scores_of_the_loss_are_withheld_without_the_output_head(headless: str, tmp_path: Path):
    """Dictionaries were ranked by the loss of a random output head."""
    text = words(tmp_path / "text.txt", 100)
    source = build(
        tmp_path / "s", model=headless, hook=HOOK, text=str(text), separator="|", context=16, heldout_share=0.3
    )
    assert "model" in source.config.provides and source.model() is None  # found out after the scores are planned
    assert source.no_model is not None and source.no_model.endswith("its checkpoint lacks lm_head.weight")
    d = any_dictionary()
    scores = Downstream().score(Case(d, gather_evidence(source, 50))).scalars
    assert len(scores) == 8 and all(value != value for value in scores.values())


def test_splicing_into_a_model_without_its_output_head_says_so(headless: str):
    """Steering a model without its output head changed random logits without a word."""
    model = Model.boot(headless)
    d = any_dictionary()
    with (
        pytest.warns(UserWarning, match=r"logits are NaN, because its checkpoint lacks lm_head"),
        sae.splice(model, {HOOK: d}) as spliced,
    ):
        model.bridge(text_for(model).tokens)
    assert bool(spliced.codes[HOOK].value.isfinite().all())


@pytest.fixture
def multimodal(tmp_path: Path, tiny_models: Mapping[str, Path]) -> str:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    vision = CLIPVisionConfig(**size, num_attention_heads=2, image_size=8, patch_size=4)
    language = LlamaConfig(**size, vocab_size=47, num_attention_heads=4, max_position_embeddings=32)
    folder = tmp_path / "llava"
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=language, image_token_index=46)
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_models["llama"] / name).read_bytes())
    return str(folder)


def test_loading_a_model_installs_nothing(multimodal: str, monkeypatch: pytest.MonkeyPatch):
    """Loading a multimodal model where torchvision is missing ran ``pip install torchvision``."""
    started: list[Any] = []

    class Popen(subprocess.Popen[Any]):
        def __init__(self, args: Any, *more: Any, **options: Any) -> None:
            started.append(args)
            raise OSError("no processes in this test")

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.warns(UserWarning, match=r"run: pip install torchvision") as warned:
        model = Model.boot(multimodal)
    assert not started and subprocess.Popen is Popen
    assert [w for w in warned if "torchvision" in str(w.message) and "\n" not in str(w.message)]
    assert model.no_logits is None and bool(model.logits(text_for(model)[:2]).isfinite().all())

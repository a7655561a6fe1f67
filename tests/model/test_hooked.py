"""Models through the Bridge: exact activations, splices that change only their positions, one-line errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae.model.hook_points import spliceable
from sae.model.hooked import Model
from sae.model.loading import is_path, load_tokenizer
from sae.model.token_rows import NOTHING, TokenRows
from sae.registry import MissingFileError, UserError


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def tiny(request: pytest.FixtureRequest, tiny_models: Mapping[str, Path]) -> Model:
    return Model.boot(str(tiny_models[request.param]))


@pytest.fixture
def stories(shared_data: Path) -> Model:
    folder = shared_data / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return Model.boot(str(folder))


def rows(model: Model, n_tokens: int = 9) -> TokenRows:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, model.bridge.cfg.d_vocab, (3, n_tokens), generator=g)
    attended = torch.ones_like(tokens, dtype=torch.bool)
    kept = attended.clone()
    kept[:, 0] = False
    return TokenRows(tokens, attended, kept)


def hugging_face(model: Model, **inputs: Any) -> Any:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model.name, attn_implementation="eager")
    with torch.no_grad():
        return reference(output_hidden_states=True, **inputs)


def check_equal(model: Model, text: TokenRows, within: float) -> None:
    reference = hugging_face(model, input_ids=text.tokens, attention_mask=text.attended.long(), labels=text.tokens)
    for layer in range(model.n_layers):
        ours = model.activations(text.tokens, text.attended, f"blocks.{layer}.hook_resid_pre")
        torch.testing.assert_close(ours, reference.hidden_states[layer], rtol=0, atol=within)
        if layer + 1 < model.n_layers:  # the last hidden state of Hugging Face is behind the final norm
            ours = model.activations(text.tokens, text.attended, f"blocks.{layer}.hook_resid_post")
            torch.testing.assert_close(ours, reference.hidden_states[layer + 1], rtol=0, atol=within)
    torch.testing.assert_close(model.logits(text), reference.logits, rtol=0, atol=within)
    everything = TokenRows(text.tokens, text.attended, text.attended)
    torch.testing.assert_close(model.losses(everything)[0].mean(), reference.loss)


def test_activations_and_losses_are_those_of_hugging_face(tiny: Model):
    # The Bridge splits GPT-2's joint q, k, v projection in three, which moves the last bits.
    check_equal(tiny, rows(tiny), within=1e-5 if tiny.bridge.cfg.architecture.startswith("GPT2") else 0)


def test_activations_of_a_trained_model_are_those_of_hugging_face(stories: Model):
    check_equal(stories, rows(stories, 40), within=0)


def padded(model: Model, side: str) -> Tensor:
    """Activations of the real tokens of three rows of different lengths, padded on one side."""
    lengths, n, text = (4, 9, 6), 9, rows(model)
    tokens, attended = torch.zeros_like(text.tokens), torch.zeros_like(text.attended)
    for i, length in enumerate(lengths):
        where = slice(n - length, n) if side == "left" else slice(0, length)
        tokens[i, where], attended[i, where] = text.tokens[i, :length], True
    return model.activations(tokens, attended, "blocks.1.hook_resid_post")[attended]


def test_padding_on_either_side_changes_nothing(tiny: Model):
    torch.testing.assert_close(padded(tiny, "left"), padded(tiny, "right"), rtol=1e-5, atol=2e-6)


def test_padding_on_either_side_of_a_trained_model(stories: Model):
    torch.testing.assert_close(padded(stories, "left"), padded(stories, "right"), rtol=1e-5, atol=5e-6)


HOOKS = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post",
         "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.0.attn.hook_q"]  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_identity_is_exact_and_the_width_is_right(tiny: Model, hook: str):
    text = rows(tiny)
    clean = tiny.losses(text)
    spliced = tiny.losses(text, hook, lambda x: x)
    assert torch.equal(clean[0], spliced[0]) and torch.equal(clean[1], spliced[1])
    acts = tiny.activations(text.tokens, text.attended, hook)
    assert acts.shape == (3, 9, tiny.width(hook))
    _, cache = tiny.bridge.run_with_cache(text.tokens, names_filter=hook)
    assert torch.equal(acts, cache[hook].flatten(2))


def test_edits_reach_the_residual_stream_at_kept_positions_alone(tiny: Model):
    text = rows(tiny)
    seen: list[Tensor] = []
    following = tiny.bridge.hook_dict["blocks.1.hook_resid_pre"]
    following.add_hook(lambda acts, hook: seen.append(acts.clone()))
    tiny.logits(text, "blocks.0.hook_resid_post", lambda x: torch.full_like(x, 7.0))
    following.remove_hooks()
    clean = tiny.activations(text.tokens, text.attended, "blocks.0.hook_resid_post")
    assert bool((seen[0][text.kept] == 7.0).all()) and torch.equal(seen[0][~text.kept], clean[~text.kept])


def test_an_edit_at_resid_mid_is_refused_since_the_stream_goes_past_it(tiny_models: Mapping[str, Path]):
    model = Model.boot(str(tiny_models["llama"]))
    text = rows(model)
    zero = [("blocks.1.hook_resid_mid", lambda acts, hook: acts * 0)]
    kept: list[Tensor] = []
    last = [("blocks.1.hook_resid_post", lambda acts, hook: kept.append(acts.clone()))]
    model.bridge.run_with_hooks(text.tokens, fwd_hooks=zero + last)
    # A block without biases maps zero to zero, so the output is the unedited residual stream.
    middle = model.activations(text.tokens, text.attended, "blocks.1.hook_resid_mid")
    torch.testing.assert_close(kept[0], middle)
    assert not spliceable("blocks.1.hook_resid_mid") and spliceable("blocks.1.hook_resid_post")
    with pytest.raises(UserError, match="would not reach the residual stream"):
        model.logits(text, "blocks.1.hook_resid_mid", lambda x: x)


def test_reading_the_last_layer_leaves_the_logits_alone(tiny: Model):
    calls: list[int] = []
    handle = tiny.bridge.original_model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    text = rows(tiny)
    tiny.activations(text.tokens, text.attended, "blocks.1.hook_resid_post")
    assert not calls
    tiny.logits(text)
    handle.remove()
    assert calls


def test_activations_may_be_differentiated_through(tiny: Model):
    text = rows(tiny)
    acts = tiny.activations(text.tokens, text.attended, "blocks.0.hook_resid_post")
    weight = torch.ones(16, requires_grad=True)
    (acts * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, acts.sum((0, 1)))


def test_only_predictions_between_kept_positions_count():
    tokens = torch.arange(8).view(1, 8)
    kept = torch.tensor([[False, True, True, False, True, True, True, False]])
    counted = TokenRows(tokens, torch.ones_like(kept), kept).counted
    assert counted.tolist() == [[False, True, False, False, True, True, False]]


def test_answers_take_the_place_of_next_tokens(tiny: Model):
    text = rows(tiny)
    following = torch.nn.functional.pad(text.tokens[:, 1:], (0, 1), value=NOTHING)
    answers = torch.where(text.kept & torch.nn.functional.pad(text.kept[:, 1:], (0, 1)), following, NOTHING)
    same = TokenRows(text.tokens, text.attended, text.kept, answers)
    for one, other in zip(tiny.losses(same), tiny.losses(text), strict=True):
        assert torch.equal(one, other)
    two_answers = torch.full_like(answers, NOTHING)
    two_answers[1, -1], two_answers[2, 4] = 5, 7
    answered = TokenRows(text.tokens, text.attended, text.kept, two_answers)
    assert answered.counted.nonzero().tolist() == [[1, 8], [2, 4]]
    log_probs = tiny.logits(text).log_softmax(-1)
    expected = torch.stack([-log_probs[1, 8, 5], -log_probs[2, 4, 7]])
    torch.testing.assert_close(tiny.losses(answered)[0], expected)
    torch.testing.assert_close(tiny.losses(answered[2:3])[0], expected[1:])
    spliced = tiny.losses(answered, "blocks.1.hook_resid_post", torch.zeros_like)[0]
    assert not torch.equal(spliced, expected)


def test_errors_are_one_line_and_helpful(tiny: Model, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"'blocks\.1\.hook_reid_post' is not a known hook .*'blocks\.1\.hook_resid_post'"
    ):
        tiny.check_hook("blocks.1.hook_reid_post")
    with pytest.raises(UserError, match=r"'blocks\.0\.attn\.hook_pattern': .* not one vector per token"):
        tiny.width("blocks.0.attn.hook_pattern")
    with pytest.raises(UserError, match=r"context = 33: .* takes at most 32 tokens; lower it"):
        tiny.check_context(33)
    tiny.check_context(32)
    with pytest.raises(MissingFileError, match=r"config\.json"):
        Model.boot(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    for load in (Model.boot, load_tokenizer):
        with pytest.raises(UserError, match="cannot be loaded") as error:
            load(str(tmp_path))
        assert "\n" not in str(error.value)


def test_a_damaged_model_file_is_one_line(tiny_models: Mapping[str, Path], tmp_path: Path):
    for file in tiny_models["llama"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        Model.boot(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (Model.boot, load_tokenizer):
        with pytest.raises(UserError, match=r"model = 'someone/not-a-model': the .* cannot be loaded") as error:
            load("someone/not-a-model")
        assert "\n" not in str(error.value)


def test_paths_and_hub_ids():
    assert not is_path("gpt2-that-is-no-folder") and not is_path("owner/repo-that-is-no-folder")
    assert is_path("./gpt2") and is_path("/a/b") and is_path("a/b/c") and is_path("~/models/x")

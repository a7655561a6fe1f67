"""Tiny models of many architectures: every answer is right, or one sentence says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae
from sae.analysis.circuits.heads import logits_with
from sae.analysis.circuits.outcomes import effects, frequent, heads_of
from sae.analysis.circuits.writers import writers
from sae.analysis.latents.logit_effects import direct_effects
from sae.analysis.latents.weights import effects_by_weights
from sae.dictionaries.topk import TopK
from sae.model.hook_points import spliceable
from sae.model.hooked import Model
from sae.model.parts import head_weights, layers_with_heads, n_heads, neuron_weights, stack_of, z_of
from sae.registry import UserError
from tests.architecture_table import Checkpoint, table
from tests.architectures import ARCHITECTURES, tiny
from tests.streaming import build, words
from tests.texts import text_for

CAUSAL = [name for name in ARCHITECTURES if name not in ("bert", "t5")]
SCANNED = [name for name in ARCHITECTURES if name != "mamba"]
ATTENTION_OUTPUTS = {
    "gpt2": "transformer.h.{}.attn.c_proj",
    "neox": "gpt_neox.layers.{}.attention.dense",
    "llama": "model.layers.{}.self_attn.o_proj",
    "gemma2": "model.layers.{}.self_attn.o_proj",
    "opt_projected": "model.decoder.layers.{}.self_attn.out_proj",
    "phi": "model.layers.{}.self_attn.dense",
    "mixtral": "model.layers.{}.self_attn.o_proj",
}
"""The module behind the heads of a layer, in the models of transformers."""


def module_of(model: Model, path: str) -> Any:
    """A module of the Hugging Face model, whatever TransformerLens has put around it."""
    module = model.bridge.original_model
    for part in path.split("."):
        module = getattr(module, "original_component", module)
        module = getattr(module, part)
    return getattr(module, "original_component", module)


def sentence(do: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        do()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["mamba", *(pytest.param(n, marks=pytest.mark.slow) for n in SCANNED)])
def test_a_hook_point_that_is_accepted_holds_one_vector_per_token(name: str) -> None:
    """Tables that all rows share, such as the cosines of rotary positions, were taken for one vector per token, and a
    run ended in an IndexError. Hook points that TransformerLens has switched off ended in a ValueError."""
    model = tiny(name)
    tokens = torch.randint(4, 47, (3, 6), generator=torch.Generator().manual_seed(0))
    attended = torch.ones_like(tokens).bool()
    accepted = list[str]()
    for hook in model.hooks:
        if "blocks.1" in hook:
            continue
        try:
            width = model.width(hook)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        acts = model.activations(tokens, attended, hook)
        alone = torch.cat([model.activations(tokens[i : i + 1], attended[i : i + 1], hook) for i in range(3)])
        assert acts.shape == (3, 6, width) and torch.allclose(acts, alone, atol=1e-4), hook
        accepted.append(hook)
    assert f"{stack_of(model)}.0.hook_resid_post" in accepted and not any("hook_cos" in hook for hook in accepted)


def test_hook_points_without_a_vector_per_token_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """The cosines of rotary positions passed the check of the width, and their activations were harvested."""
    llama, mixtral = tiny("llama"), tiny("mixtral")
    for hook in ("blocks.0.attn.hook_cos", "rotary_emb.hook_sin", "blocks.0.attn.hook_pattern"):
        assert "not one vector per token" in sentence(partial(llama.width, hook))
    assert "not one vector per token" in sentence(partial(mixtral.width, "blocks.0.mlp.gate.hook_out"))
    assert "holds values of type torch.int64" in sentence(partial(llama.width, "embed.hook_in"))
    for hook in ("blocks.0.hook_mlp_in", "blocks.0.attn.hook_result", "blocks.0.hook_q_input"):
        assert "switched off in TransformerLens" in sentence(partial(llama.width, hook))
    # TransformerLens gives the name of the neurons to the output of the whole MLP.
    for end in ("pre", "post"):
        assert "mixture of experts" in sentence(partial(mixtral.width, f"blocks.0.mlp.hook_{end}"))
    source = {"model": llama.name, "text": str(words(tmp_path / "text.txt", 30)), "separator": "|", "bos": "none"}
    with pytest.raises(UserError):
        build(tmp_path / "s", **source, hook="blocks.0.attn.hook_cos", context=16)


def test_an_edit_of_what_rotary_positions_never_read_is_not_scored() -> None:
    """A dictionary at the input of the rotary embeddings seemed to recover all of the loss, as no edit there counts."""
    model, text = tiny("llama"), text_for(tiny("llama"))
    assert not spliceable("rotary_emb.hook_in")
    assert "would not reach" in sentence(lambda: model.logits(text, "rotary_emb.hook_in", torch.zeros_like))


def test_the_last_norm_of_a_block_that_normalises_afterwards_can_be_edited() -> None:
    """A dictionary there ended in a ValueError or an IndexError inside transformers."""
    model, text = tiny("opt_projected"), text_for(tiny("opt_projected"))
    for layer in (0, 1):
        edited = [model.logits(text, f"blocks.{layer}.{end}", torch.neg) for end in ("ln2.hook_out", "hook_resid_post")]
        assert torch.equal(*edited) and not torch.allclose(edited[0], model.logits(text), atol=0.1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt_projected", "bert", "t5", "qwen2moe"])
def test_weights_of_neurons_are_those_of_their_layer(name: str) -> None:
    """In a model whose layers differ, the weights of another layer were taken without a word; in a mixture of experts
    and a state-space model, there was a traceback."""
    model = tiny(name)
    tokens = torch.randint(4, 47, (2, 6), generator=torch.Generator().manual_seed(0))
    for layer in (0, 1):
        if (name, layer) == ("qwen2moe", 0):
            assert "give one of the layers 1" in sentence(partial(neuron_weights, model, layer))
            continue
        weights, start = neuron_weights(model, layer), f"{stack_of(model)}.{layer}.mlp"
        prefix = "dense_" if name == "qwen2moe" else ""
        names = [f"{start}.{prefix}{part}" for part in ("in.hook_in", "in.hook_out", "out.hook_in", "out.hook_out")]
        x, pre, post, out = model.activations_at(tokens, torch.ones_like(tokens).bool(), names)
        for found, expected in ((x @ weights["W_in"].T, pre), (post @ weights["W_out"], out)):
            bias = (expected - found).mean((0, 1))
            assert torch.allclose(found + bias, expected, atol=1e-4), (layer, names)
    assert "the model has 2 layers" in sentence(partial(neuron_weights, model, 2))


@pytest.mark.parametrize("name", list(ATTENTION_OUTPUTS))
def test_heads_are_those_of_the_model_of_transformers(name: str) -> None:
    """The output of a head, and the logits without it, are those of hooks on the modules of transformers."""
    model, text = tiny(name), text_for(tiny(name))
    for layer in layers_with_heads(model):
        module, seen, weights = (
            module_of(model, ATTENTION_OUTPUTS[name].format(layer)),
            list[Tensor](),
            head_weights(model, layer),
        )
        assert weights is not None
        with module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach())):
            clean = model.logits(text)
        heads, zero = n_heads(model, layer), torch.zeros_like(seen[0])
        z = model.activations(text.tokens, text.attended, z_of(model, layer))
        for head in range(heads):
            own = seen[0].unflatten(-1, (heads, -1)).clone()
            own[..., [h for h in range(heads) if h != head], :] = 0
            written = module(own.flatten(-2)) - module(zero)
            found = z.unflatten(-1, (heads, -1))[:, :, head] @ weights[head]
            assert torch.allclose(found[text.kept], written[text.kept], atol=1e-4)

            def without(_: Any, args: tuple[Tensor, ...], head: int = head, heads: int = heads) -> tuple[Tensor, ...]:
                z = args[0].unflatten(-1, (heads, -1)).clone()
                z[..., head, :] = 0
                return (z.flatten(-2), *args[1:])

            with module.register_forward_pre_hook(without):
                expected = model.logits(text)
            ablated = logits_with(model, text, torch.arange(heads) != head, layer)
            assert torch.allclose(ablated[text.attended], expected[text.attended], atol=1e-4)
            assert not torch.allclose(expected, clean, atol=1e-3)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "olmo2", "lfm2"])
def test_what_writes_to_the_stream_adds_up_to_it(name: str) -> None:
    """Where a norm follows the attention, the outputs of heads before that norm were taken for what the stream gains;
    a model with an embedding of another width, a state-space model and an encoder-decoder had a traceback."""
    model, text = tiny(name), text_for(tiny(name))
    hook = f"{stack_of(model)}.1.hook_resid_post"
    found = writers(model, hook, text)
    if name in ("bert", "opt_projected"):
        assert isinstance(found, str) and "is not the sum" in found
        return
    assert not isinstance(found, str)
    kinds = {writer.name.split()[-1 if writer.name[0].isdigit() else 0] for writer in found}
    mixers = {"mamba": {"mixer"}, "lfm2": {"conv", "head", "MLP"}}
    normed = {"attention", "MLP"} if name in ("gemma2", "gemma3", "olmo2") else {"head", "MLP"}
    assert kinds == {"embed"} | mixers.get(name, normed)
    last = model.activations(text.tokens, text.attended, hook)
    total = sum(writer.written(model.activations(text.tokens, text.attended, writer.hook)) for writer in found)
    if "hook_pos_embed" in model.hooks and name in ("gpt2", "opt"):
        total = total + model.activations(text.tokens, text.attended, "hook_pos_embed")
    rest = (last - total)[text.kept]
    assert torch.allclose(rest, rest.mean(0).expand_as(rest), atol=1e-3), "all but a constant"


def test_effects_are_those_of_every_head_of_the_layers_that_have_some() -> None:
    """The question `heads` ended in a traceback on a model with layers of other kinds, and on one without heads."""
    model, text = tiny("lfm2"), text_for(tiny("lfm2"))
    assert heads_of(model) == [(1, 0), (1, 1)]
    events = frequent(text, 2)
    found = effects(model, text, events, "zero")
    without = logits_with(model, text, torch.tensor([True, False]), 1).log_softmax(-1)
    at = events.row, events.position, events.target
    assert torch.allclose(found.change[1], found.clean - without[at], atol=1e-4)
    assert "no attention heads" in sentence(lambda: effects(tiny("mamba"), text, events))
    assert "do not predict the next token" in sentence(lambda: effects(tiny("bert"), text, events))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt_projected"])
def test_neurons_weigh_what_they_do_to_the_logits(name: str) -> None:
    """The question `smuggling` weighed neurons without the gain of the last norm, and ended in a traceback where an
    embedding has a width of its own. The length of a neuron's effect is that of finite differences."""
    model, text, hook = tiny(name), text_for(tiny(name)), "blocks.1.mlp.hook_out"
    rows = neuron_weights(model, 1)["W_out"]
    found = direct_effects(model, hook, 16, text)
    assert not isinstance(found, str)
    lengths = torch.cat([effect.norm(dim=1) for effect in found(rows)])
    step = 1e-2
    true = list[Tensor]()
    for row in rows:
        up, down = (model.logits(text, hook, partial(torch.add, s * row)) for s in (step, -step))
        change = ((up - down) / (2 * step))[text.kept]
        true.append((change - change.mean(-1, keepdim=True)).norm(dim=1).mean())
    assert float(torch.corrcoef(torch.stack([lengths, torch.stack(true)]))[0, 1]) > 0.95


def test_directions_of_the_width_of_the_vocabulary_have_no_effects_by_weights() -> None:
    """Effects at the logits themselves ended in a RuntimeError, as the unembedding has their width too."""
    model = tiny("llama")
    found = direct_effects(model, "unembed.hook_out", 47, text_for(model))
    assert not isinstance(found, str)
    row = torch.zeros(1, 47)
    row[0, 5] = 2.0
    assert torch.allclose(next(found(row)), row - row.mean(), atol=1e-3)
    assert next(effects_by_weights(torch.randn(2, 16), model)).shape == (2, 47)


@pytest.mark.parametrize("name", [*CAUSAL, "bert"])
def test_a_dictionary_that_loses_nothing_changes_nothing(name: str) -> None:
    """Splicing an exact dictionary leaves the logits as they are, in every architecture and at several places."""
    model, eye = tiny(name), torch.eye(16)
    both = torch.cat([eye, -eye])
    exact = TopK(both.T.contiguous(), both, torch.zeros(32), torch.zeros(16), k=16)
    tokens = torch.randint(4, 47, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = model.bridge(tokens)
        for hook in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"):
            with sae.splice(model, {hook: exact}, error=False):
                assert torch.allclose(model.bridge(tokens), clean, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "question", "reason"),
    [
        ("opt_projected", "positional", "not shown: the residual stream at blocks.0.hook_resid_post is not the sum"),
        ("opt_projected", "smuggling", None),
        pytest.param("mamba", "positional", None, marks=pytest.mark.slow),
        ("mamba", "heads", "no attention heads"),
        pytest.param("mixtral", "smuggling", "mixture of experts", marks=pytest.mark.slow),
        ("mixtral", "neuron_map", "mixture of experts"),
        pytest.param("t5", "positional", None, marks=pytest.mark.slow),
        pytest.param("t5", "neuron_map", None, marks=pytest.mark.slow),
    ],
)
def test_questions_that_ended_in_tracebacks(name: str, question: str, reason: str | None, tmp_path: Path) -> None:
    """`sae ask` ended in an AttributeError or a RuntimeError on these models."""
    checkpoint = Checkpoint(name, tmp_path)
    try:
        missing = list(checkpoint.ask(question))
        assert len(checkpoint.asked[question].tables) >= 1
    except UserError as error:
        missing = [str(error)]
        assert "\n" not in missing[0]
    assert bool(missing) == (reason is not None) and all(reason in found for found in missing if reason)


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_the_command_prints() -> None:
    """Every architecture is run, explored, spliced and asked about: a traceback in any cell fails here."""
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in page

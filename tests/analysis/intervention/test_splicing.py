"""A dictionary spliced into a running model: only edits change activations, and as they are defined."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae
from sae.analysis.intervention.edits import add, clamp, only, scale, steer, zero
from sae.analysis.intervention.sparse_codes import SparseCodes
from sae.dictionaries.relu import Relu
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.registry import UserError

HOOK, NEXT = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_models: Mapping[str, Path]) -> Model:
    return Model.boot(str(tiny_models[request.param]))


def dictionary(seed: int = 0, d_in: int = 16, n_latents: int = 24, **card: object) -> Dictionary:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(n_latents, d_in, generator=g)
    return Relu(
        W_enc=w.T.contiguous() * 0.4,
        W_dec=w,
        b_enc=torch.randn(n_latents, generator=g) * 0.1,
        b_dec=torch.randn(d_in, generator=g),
        card=card,
    )


def tokens(model: Model, rows: int = 3, n_tokens: int = 9) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(4, model.bridge.cfg.d_vocab, (rows, n_tokens), generator=g)


def logits(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.bridge(x, return_type="logits")


@pytest.mark.parametrize(
    "hook", [HOOK, NEXT, "blocks.1.hook_mlp_out", "blocks.0.attn.hook_z", "blocks.1.hook_resid_pre"]
)
def test_without_an_edit_the_logits_are_the_models_own_to_the_bit(model: Model, hook: str) -> None:
    x = tokens(model)
    clean = logits(model, x)
    with sae.splice(model, {hook: dictionary()}) as spliced:
        assert torch.equal(logits(model, x), clean)
    assert len(spliced.codes[hook].value) > 0
    with sae.splice(model, {hook: dictionary()}, edits={hook: scale(0, 1, by=1.0)}):
        assert torch.equal(logits(model, x), clean), "an edit that changes no code changes no logit"
    with sae.splice(model, {hook: dictionary()}, error=False):
        assert not torch.allclose(logits(model, x), clean)
    assert torch.equal(logits(model, x), clean), "nothing of it is left behind"


def test_codes_are_those_of_the_activations(model: Model) -> None:
    x, d = tokens(model), dictionary()
    with sae.splice(model, {HOOK: d}) as spliced:
        logits(model, x)
    acts = model.activations(x, torch.ones_like(x).bool(), HOOK)
    assert torch.equal(spliced.codes[HOOK].dense(), d.encode(acts.reshape(-1, 16)).view(3, 9, 24))


def test_the_reconstruction_in_the_place_of_activations_is_the_edit_that_models_know(model: Model) -> None:
    from sae.model.token_rows import TokenRows

    x, d = tokens(model), dictionary()
    every = torch.ones_like(x).bool()
    with sae.splice(model, {HOOK: d}, error=False):
        spliced = logits(model, x)
    assert torch.equal(spliced, model.logits(TokenRows(x, every, every), HOOK, lambda a: d.decode(d.encode(a))))


def test_an_edited_latent_moves_activations_along_its_row(model: Model) -> None:
    x, d = tokens(model), dictionary()
    every = torch.ones_like(x).bool()
    before = model.activations(x, every, HOOK)
    z = d.encode(before)
    unit = d.W_dec[5] / d.W_dec[5].norm()
    expected = {
        "zero": (zero(5), -z[..., 5:6] * d.W_dec[5]),
        "clamp": (clamp(5, value=2.0), (2 - z[..., 5:6]) * d.W_dec[5]),
        "scale": (scale(5, by=3.0), 2 * z[..., 5:6] * d.W_dec[5]),
        "add": (add(5, amount=0.5), (0.5 * d.W_dec[5]).expand_as(before)),
        "steer": (steer(5, amount=4.0), (4 * unit).expand_as(before)),
        "only": (only([5]), z[..., 5:6] * d.W_dec[5] - z @ d.W_dec),
        "own": (lambda z, d: z * 0, -z @ d.W_dec),
    }
    for name, (edit, change) in expected.items():
        with sae.splice(model, {HOOK: d}, edits={HOOK: edit}) as spliced:
            _, cache = spliced.bridge.run_with_cache(x, names_filter=HOOK)
        assert torch.allclose(cache[HOOK] - before, change, atol=1e-4), name


def test_edits_are_made_in_their_order(model: Model) -> None:
    x, d = tokens(model), dictionary()
    with sae.splice(model, {HOOK: d}, edits={HOOK: [add(5, amount=1.0), zero(5)]}):
        both = logits(model, x)
    with sae.splice(model, {HOOK: d}, edits={HOOK: zero(5)}):
        assert torch.equal(both, logits(model, x))


def test_several_hooks_at_once_each_read_what_the_earlier_ones_left(model: Model) -> None:
    x, first, second = tokens(model), dictionary(0), dictionary(1)
    with sae.splice(model, {HOOK: first, NEXT: second}, edits={HOOK: zero(*range(24))}, error=True) as both:
        together = logits(model, x)
    with sae.splice(model, {HOOK: first}, edits={HOOK: zero(*range(24))}):
        assert torch.equal(logits(model, x), together), "the second is not edited"
    with sae.splice(model, {NEXT: second}) as alone:
        logits(model, x)
    assert not torch.equal(both.codes[NEXT].dense(), alone.codes[NEXT].dense())


def test_positions_that_training_left_out_pass_unchanged(model: Model) -> None:
    x = tokens(model)
    x[:, 0] = x[1, 4] = model.bridge.tokenizer.bos_token_id
    card = {"source": {"kind": "transformer", "drop_position_0": True}}
    with sae.splice(model, {HOOK: dictionary(**card)}, error=False) as spliced:
        _, cache = spliced.bridge.run_with_cache(x, names_filter=HOOK)
    before = model.activations(x, torch.ones_like(x).bool(), HOOK)
    same = (cache[HOOK] == before).all(-1)
    expected = torch.zeros_like(same)
    expected[:, 0] = expected[1, 4] = True
    assert torch.equal(same, expected)
    assert torch.equal(spliced.codes[HOOK].read, ~expected)
    with sae.splice(model, {HOOK: dictionary(**card)}, special=[], drop_first=False) as every:
        logits(model, x)
    assert bool(every.codes[HOOK].read.all()), "unless drop_first and special say otherwise"


def test_a_transcoder_reads_at_one_hook_and_writes_at_another(model: Model) -> None:
    x, d = tokens(model), dictionary()
    start, end = "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"
    place = f"{start} -> {end}"
    clean = logits(model, x)
    with sae.splice(model, {place: d}):
        assert torch.equal(logits(model, x), clean)
    with sae.splice(model, {place: d}, error=False) as spliced:
        _, cache = spliced.bridge.run_with_cache(x, names_filter=lambda n: n in (start, end))
    assert torch.allclose(cache[end], d.decode(d.encode(cache[start])), atol=1e-5)
    with pytest.raises(UserError, match="comes before"), sae.splice(model, {f"{end} -> {start}": d}):
        logits(model, x)


def test_a_skip_connection_is_part_of_a_reconstruction(model: Model) -> None:
    x, d = tokens(model), dictionary()
    start, end = "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"
    skip = Transcoder(d.W_enc, d.W_dec, d.b_enc, d.b_dec, W_skip=torch.eye(16))
    with sae.splice(model, {f"{start} -> {end}": skip}, error=False) as spliced:
        _, cache = spliced.bridge.run_with_cache(x, names_filter=lambda n: n in (start, end))
    assert torch.allclose(cache[end], skip.reconstruct(cache[start]), atol=1e-5)


def test_a_bridge_alone_text_and_generation(tiny_models: Mapping[str, Path]) -> None:
    bridge = Model.boot(str(tiny_models["gpt2"])).bridge
    card = {"source": {"kind": "transformer", "drop_position_0": True}}
    plain = bridge.generate("w1 w2 w3", max_new_tokens=6, do_sample=False, verbose=False)
    with sae.splice(bridge, {HOOK: dictionary(**card)}):
        assert bridge.generate("w1 w2 w3", max_new_tokens=6, do_sample=False, verbose=False) == plain
    with sae.splice(bridge, {HOOK: dictionary(**card)}, edits={HOOK: steer(3, amount=60.0)}):
        assert bridge.generate("w1 w2 w3", max_new_tokens=6, do_sample=False, verbose=False) != plain


def test_it_can_be_differentiated_and_the_derivative_is_the_models_own(model: Model) -> None:
    x = tokens(model)

    def slope(**options: object) -> Tensor:
        start = torch.zeros(3, 9, 16, requires_grad=True)
        hooks = [("blocks.0.hook_resid_pre", lambda acts, hook: acts + start)]
        with sae.splice(model, {HOOK: dictionary()}, **options), model.bridge.hooks(fwd_hooks=hooks):
            value = model.bridge(x, return_type="logits")[..., 7].sum()
        return torch.autograd.grad(value, start)[0]

    clean, edited, replaced = slope(), slope(edits={HOOK: scale(0, by=1.0)}), slope(error=False)
    assert torch.allclose(clean, edited, atol=1e-5)
    assert not torch.allclose(clean, replaced, atol=1e-3)


def test_what_cannot_be_is_said_in_one_line(model: Model) -> None:
    x = tokens(model)
    with (
        pytest.raises(UserError, match="has width 16, but the dictionary reads 8"),
        sae.splice(model, {HOOK: dictionary(d_in=8)}),
    ):
        pass
    with pytest.raises(UserError, match="hook point"), sae.splice(model, {"blocks.0.hook_resid": dictionary()}):
        pass
    with (
        pytest.raises(UserError, match="has no dictionary"),
        sae.splice(model, {HOOK: dictionary()}, edits={NEXT: zero(1)}),
    ):
        pass
    with pytest.raises(UserError, match="latent 24"), sae.splice(model, {HOOK: dictionary()}, edits={HOOK: zero(24)}):
        logits(model, x)
    resid_mid = {"blocks.0.hook_resid_mid": dictionary()}
    with pytest.raises(UserError, match="would not reach"), sae.splice(model, resid_mid):
        pass
    clean = logits(model, x)
    assert torch.equal(clean, logits(model, x)), "a failed splice leaves no hooks"
    assert not model.bridge.embed._forward_pre_hooks


def test_sparse_codes_are_the_dense_ones() -> None:
    g = torch.Generator().manual_seed(0)
    kept = torch.rand(4, 5, generator=g) > 0.4
    z = torch.relu(torch.randn(int(kept.sum()), 6, generator=g))
    codes = SparseCodes.of(z, kept)
    assert torch.equal(codes.dense()[kept], z) and not bool(codes.dense()[~kept].any())
    assert torch.allclose(codes.total(), z.sum(0))
    assert torch.equal(codes.of_latent(2), codes.dense()[..., 2])
    both = SparseCodes.joined([codes, codes])
    assert both.shape == (8, 5, 6) and torch.equal(both.dense(), torch.cat([codes.dense()] * 2))

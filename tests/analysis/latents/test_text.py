"""Latents of a transformer: text around examples, logits, ablation, each compared with the direct computation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.activations.corpus import PADDING
from sae.activations.disk_source import Activations
from sae.analysis.latents import Absent, Exploration, LatentsConfig, explore_latents
from sae.analysis.latents.examples import APART, TOP
from sae.analysis.latents.reading import held_out_vectors
from sae.analysis.latents.weights import in_stream, logits, neighbours
from sae.dictionaries.topk import TopK
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from tests.streaming import build, columns, silent, words

HOOK = "blocks.0.hook_resid_post"
LOOKED = LatentsConfig(n_tokens=10_000, n_top=6, n_ablated=3, before=5, after=3, n_logits=4)


def random_topk(d_in: int = 16, n_latents: int = 24, k: int = 4) -> TopK:
    W = torch.randn(n_latents, d_in, generator=generator("test"))
    W = W / W.norm(dim=1, keepdim=True)
    return TopK(W.T.contiguous(), W, torch.zeros(n_latents), torch.zeros(d_in), k=k)


@pytest.fixture(scope="module")
def source(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Activations:
    folder = tmp_path_factory.mktemp("source")
    return build(folder / "s", **settings(tiny_models, "llama", folder))


def settings(tiny_models: Mapping[str, Path], model: str, folder: Path, **more: Any) -> dict[str, Any]:
    text = words(folder / "text.txt", 300)
    given = {"model": str(tiny_models[model]), "hook": HOOK, "text": str(text), "separator": "|", "context": 16}
    return {**given, "heldout_share": 0.5, "shard_tokens": 400, **more}


@pytest.fixture(scope="module")
def found(source: Activations) -> Exploration:
    return explore_latents(random_topk(), source, LOOKED, silent)


def test_every_held_out_vector_is_read_once_in_whole_rows(source: Activations):
    pieces = list(held_out_vectors(source, 10_000, 100).pieces())
    kept = {half: columns(source, half) for half in ("choose", "test")}
    n_choose = source.facts["splits"]["choose"]["rows"]
    wanted = {(int(r), int(p)) for r, p in zip(kept["choose"]["row"], kept["choose"]["position"], strict=True)}
    wanted |= {(int(r) + n_choose, int(p)) for r, p in zip(kept["test"]["row"], kept["test"]["position"], strict=True)}
    places = [(int(r), int(p)) for piece in pieces for r, p in zip(piece.row, piece.position, strict=True)]
    assert len(pieces) > 10 and len(places) == len(wanted) and set(places) == wanted
    rows = [set(piece.row.tolist()) for piece in pieces]
    assert all(not a & b for i, a in enumerate(rows) for b in rows[:i])
    by_place = dict(zip(places, torch.cat([piece.acts for piece in pieces]), strict=True))
    k = kept["test"]
    for i in range(0, len(k["row"]), 37):
        assert torch.equal(by_place[(int(k["row"][i]) + n_choose, int(k["position"][i]))], k["acts"][i])


def test_fewer_tokens_are_a_sample_of_whole_rows(source: Activations):
    reading = held_out_vectors(source, 400, 100)
    pieces = list(reading.pieces())
    n = {half: sum(len(p.row) for p in pieces if p.half == half) for half in ("choose", "test")}
    assert all(200 <= size < 200 + 16 for size in n.values())
    chosen = torch.cat([p.row for p in pieces if p.half == "choose"]).unique()
    assert int(chosen.max()) > 2 * len(chosen), "not the first rows of the text"


def test_windows_hold_the_text_and_the_codes_around_an_example(source: Activations, found: Exploration):
    d, e, w = random_topk(), found.examples, found.windows
    model = Model.boot(str(source.config.model))  # pyright: ignore
    for k in range(0, len(e), 11):
        text = found.reading.text(e.row[k : k + 1])
        assert text is not None
        z = d.encode(model.activations(text.tokens, text.attended, HOOK)[0])[:, int(found.shown[e.latent[k]])]
        for i, position in enumerate(range(int(e.position[k]) - 5, int(e.position[k]) + 4)):
            if not (0 <= position < 16 and bool(text.attended[0, position])):
                assert int(w.token[k, i]) == PADDING
                continue
            assert int(w.token[k, i]) == int(text.tokens[0, position])
            if bool(text.kept[0, position]):
                assert float(w.value[k, i]) == pytest.approx(float(z[position]), abs=1e-4)
            else:
                assert bool(w.value[k, i].isnan())
    torch.testing.assert_close(w.at_example, e.value, atol=1e-4, rtol=1e-4)


def test_the_strongest_examples_are_apart_and_have_their_tokens(found: Exploration):
    e = found.examples
    assert APART > 16, "in rows this short an example a row"
    for i in range(len(found.shown)):
        top = (e.latent == i) & (e.group == TOP)
        assert len(e.row[top].unique()) == int(top.sum()) > 0
        j = int(found.shown[i])
        its = found.collected.top.columns["token"][j][found.collected.top.filled[j]]
        assert sorted(its.tolist()) == sorted(found.windows.token[top, 5].tolist())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_are_those_of_the_normed_row(tiny_models: Mapping[str, Path], name: str):
    model, rows = Model.boot(str(tiny_models[name])), random_topk().W_dec
    bridge = model.bridge
    with torch.no_grad():
        bridge.ln_final.original_component.weight.copy_(torch.linspace(0.3, 2.0, 16))
    weight, W_U = bridge.ln_final.original_component.weight, bridge.unembed.original_component.weight.T
    plain = ((rows - rows.mean(1, keepdim=True) if name == "gpt2" else rows) * weight) @ W_U
    plain = plain - plain.mean(1, keepdim=True)
    found = logits(rows, model, 4)
    torch.testing.assert_close(found.promotion, plain.topk(4).values, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(plain.gather(1, found.promoted), found.promotion, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(plain.gather(1, found.suppressed), found.suppression, atol=1e-4, rtol=1e-3)
    assert bool((found.suppression < 0).all())


def test_an_ablation_is_the_change_that_one_place_makes(source: Activations, found: Exploration):
    d, ablation = random_topk(), found.ablation
    assert not isinstance(ablation, Absent) and found.collected is not None
    model = Model.boot(str(source.config.model))  # pyright: ignore
    places = found.collected.sample(3, found.tally.histogram, 1000)
    for i in (0, 7, 20):
        changes: list[float] = []
        effects: list[torch.Tensor] = []
        for k in (places.latent == i).nonzero()[:, 0].tolist():
            row, position = places.row[k : k + 1], int(places.position[k])
            text = found.reading.text(row)
            assert text is not None
            here = torch.zeros_like(text.kept)
            here[0, position] = True
            taken = places.value[k] * d.W_dec[found.shown[i]]
            whole = TokenRows(text.tokens, text.attended, here)
            after = model.logits(whole, HOOK, lambda x, taken=taken: x - taken)[0, position].log_softmax(-1)
            before = model.logits(text)[0, position].log_softmax(-1)
            effects.append(after.exp() - before.exp())
            if position + 1 < 16 and bool(text.counted[0, position]):
                changes.append(float((after - before)[text.tokens[0, position + 1]]))
        assert int(ablation.n[i]) == len(changes)
        assert float(ablation.change[i]) == pytest.approx(np.mean(changes), abs=1e-4)
        effect = torch.stack(effects).mean(0)
        torch.testing.assert_close(effect[ablation.fallen[i]], ablation.fall[i], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(effect.amax(), ablation.rise[i, 0], atol=1e-4, rtol=1e-3)


def test_a_latent_that_writes_nothing_changes_nothing(source: Activations):
    d = random_topk()
    W_dec = d.W_dec.clone()
    W_dec[5] = 0
    mute = TopK(d.W_enc, W_dec, d.b_enc, d.b_dec, k=4)
    ablation = explore_latents(mute, source, LOOKED.model_copy(update={"latents": (5, 6)}), silent).ablation
    assert not isinstance(ablation, Absent)
    assert abs(float(ablation.change[0])) < 1e-5 < abs(float(ablation.change[1]))


def test_what_is_outside_the_stream_is_said_to_be(tiny_models: Mapping[str, Path], tmp_path: Path):
    inside = build(tmp_path / "s", **settings(tiny_models, "llama", tmp_path, hook="blocks.1.mlp.hook_post"))
    found = explore_latents(random_topk(24), inside, LOOKED, silent)
    assert isinstance(found.logits, Absent) and "blocks.1.mlp.hook_post" in found.logits.why
    assert not isinstance(found.ablation, Absent) and bool(found.ablation.change.isfinite().any())


def test_a_transcoder_is_taken_out_where_it_writes(tiny_models: Mapping[str, Path], tmp_path: Path):
    hooks = {"hook": "blocks.1.mlp.hook_in", "target": "blocks.1.mlp.hook_out"}
    found = explore_latents(
        random_topk(), build(tmp_path / "s", **settings(tiny_models, "llama", tmp_path, **hooks)), LOOKED, silent
    )
    assert not isinstance(found.logits, Absent) and not isinstance(found.ablation, Absent)
    assert float(found.ablation.change.abs().nan_to_num().max()) > 1e-4


def test_hooks_in_the_stream():
    inside = (
        "blocks.3.hook_resid_post",
        "blocks.0.hook_mlp_out",
        "hook_embed",
        "blocks.2.hook_out",
        "ln_final.hook_in",
    )
    outside = ("blocks.3.mlp.hook_post", "blocks.0.ln1.hook_out", "blocks.1.attn.hook_z", "unembed.hook_out")
    assert all(map(in_stream, inside)) and not any(map(in_stream, outside))


def test_neighbours_are_those_of_the_whole_matrix_of_cosines():
    d = random_topk(8, 700)
    found = neighbours(d, 6)
    cosine = torch.nn.functional.cosine_similarity(d.W_dec[:, None], d.W_dec[None], dim=-1)
    torch.testing.assert_close(found.farthest_cosine, cosine.topk(6, largest=False).values, atol=1e-5, rtol=1e-5)
    cosine.fill_diagonal_(-2)
    torch.testing.assert_close(found.nearest_cosine, cosine.topk(6).values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cosine.gather(1, found.nearest), found.nearest_cosine, atol=1e-5, rtol=1e-5)

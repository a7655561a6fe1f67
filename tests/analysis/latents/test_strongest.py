"""The strongest examples of a latent and the tokens of texts, each compared with the direct computation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.activations.corpus import PADDING
from sae.activations.disk_source import Activations
from sae.analysis.latents import LatentsConfig, explore_latents
from sae.analysis.latents.examples import TOP
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.model.hooked import Model
from sae.numerics.seeds import generator
from sae.sources.independent import Config as Independent
from tests.streaming import build, silent, words

HOOK = "blocks.0.hook_resid_post"
TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w8 w9", "w3 w1 w3 w2 w39 w0 w11 w12"]


def random_relu(d_in: int = 16, n_latents: int = 24) -> Relu:
    W = torch.randn(n_latents, d_in, generator=generator("test"))
    return Relu.tied(W / W.norm(dim=1, keepdim=True))


@pytest.fixture(scope="module")
def model(tiny_models: Mapping[str, Path]) -> Model:
    return Model.boot(str(tiny_models["gpt2"]))


@pytest.fixture(scope="module")
def source(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Activations:
    folder = tmp_path_factory.mktemp("source")
    text = words(folder / "text.txt", 120)
    given: dict[str, Any] = {"model": str(tiny_models["gpt2"]), "hook": HOOK, "text": str(text), "separator": "|"}
    return build(folder / "s", **given, context=16, heldout_share=0.5, shard_tokens=400)


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_examples_of_a_source_are_those_of_its_exploration(source: Activations, kind: str):
    d = random_relu()
    d = d if kind == "relu" else TopK(d.W_enc, d.W_dec, d.b_enc, d.b_dec, k=4)
    settings = LatentsConfig(n_tokens=10_000, latents=(3,), n_top=6, n_ablated=0, before=5, after=3)
    found = explore_latents(d, source, settings, silent)
    top = (found.examples.group == TOP).nonzero()[:, 0]
    r = sae.top_examples(source, d, 3, n=6, n_samples=10_000, before=5, after=3)
    torch.testing.assert_close(r.value, found.examples.value[top])
    assert torch.equal(r.row, found.examples.row[top]) and torch.equal(r.position, found.examples.position[top])
    assert torch.equal(r.windows.token, found.windows.token[top])
    torch.testing.assert_close(r.windows.value, found.windows.value[top], equal_nan=True)
    assert r.n_samples == found.tally.n_vectors and r.rate == pytest.approx(float(found.tally.rate[3]))
    best = float(r.value[0])
    assert f"{best:9.4g}" in str(r) and f"{best:.4g}" in r._repr_html_() and "latent 3: active in" in str(r)


def test_examples_of_a_matrix():
    x = Independent(n_features=12, d_in=8, probability=0.2).build().batch(0, 500).acts
    d = random_relu(8, 10)
    r = sae.top_examples(x, d, 4, n=5)
    held_out = sae.source.as_source(x)
    rows = torch.cat([held_out.batch(0, 50, half).acts for half in ("choose", "test")])
    value, row = d.encode(rows)[:, 4].topk(5)
    torch.testing.assert_close(r.value, value)
    assert torch.equal(r.row, row) and len(r.text) == 5 and len(r) == 5


def test_examples_of_a_toy_name_its_features():
    source = Independent(n_features=12, d_in=12, probability=0.1).build()
    assert source.truth is not None
    r = sae.top_examples(source, Relu.tied(source.truth.directions), 7, n=4, n_samples=2000)
    assert all("feature 7: " in text for text in r.text) and "feature 7: " in r._repr_html_()


def test_examples_of_texts_are_those_of_the_models_activations(model: Model):
    d, prepended = random_relu(), sae.tokens(model, TEXTS)
    r = sae.top_examples(model, d, 2, n=1, texts=TEXTS, hook=HOOK)
    attended = prepended.ids != PADDING
    z = d.encode(model.activations(prepended.ids.clamp(min=0), attended, HOOK))[..., 2]
    z[~attended | (torch.arange(z.shape[1]) == 0)] = 0  # neither padding nor BOS
    torch.testing.assert_close(r.value[0], z.max(), rtol=1e-4, atol=1e-5)
    assert [int(r.row[0]), int(r.position[0])] == list(divmod(int(z.argmax()), z.shape[1]))
    word = TEXTS[int(r.row[0])].split()[int(r.position[0]) - 1]
    assert f"«{word}»" in r.text[0].replace(" ", "") and r.n_samples == 7 + 2 + 8
    on_card = replace(d, b_enc=d.b_enc + 100, card={"source": {"kind": "transformer", "hook": HOOK, "context": 4}})
    in_rows = sae.top_examples(model, on_card, 2, texts=TEXTS)
    assert len(in_rows) == 3 + 1 + 3 and int(in_rows.position.max()) <= 3, "rows of 3 words and BOS, as in training"
    assert in_rows.rate == 1 and in_rows.n_samples == 7 + 2 + 8
    by_bridge = sae.top_examples(model.bridge, d, 2, n=1, texts=TEXTS, hook=HOOK)
    torch.testing.assert_close(by_bridge.value, r.value)


def test_rows_above_the_norm_limit_are_left_out(model: Model):
    d = random_relu().with_card(left_out={"norm_limit": 1e-6, "rows": {}})
    r = sae.top_examples(model, d, 2, texts=TEXTS, hook=HOOK)
    assert len(r) == 0 and r.n_samples == 0 and r.text == [] and "latent 2" in r._repr_html_()


def test_tokens_of_texts(model: Model, tiny_models: Mapping[str, Path]):
    t = sae.tokens(model, ["w1 w2", "w3"])
    bos, w1, w2, w3 = 0, 4 + 1, 4 + 2, 4 + 3
    assert t.ids.tolist() == [[bos, w1, w2], [bos, w3, PADDING]] and len(t) == 2
    assert [word.strip() for _, word in t.rows()[0]] == ["<s>", "w1", "w2"]
    assert str(t).splitlines()[1].replace(" ", "") == "<s>|w3"
    page = t._repr_html_()
    assert f'title="token {w2}, position 2"' in page and "&lt;s&gt;" in page and "2 tokens" in page
    by_name = sae.tokens(str(tiny_models["gpt2"]), "w1 w2", bos=False)
    assert by_name.ids.tolist() == [[w1, w2]] == sae.tokens(model.bridge, "w1 w2", bos=False).ids.tolist()


@pytest.mark.parametrize(
    ("arguments", "words_of_error"),
    [
        ({"latent": 24}, "there is no such latent; give a number from 0 to 23"),
        ({"latent": -1}, "there is no such latent"),
        ({"n": 0}, "n = 0: give at least 1"),
        ({"texts": None}, "texts is missing"),
        ({"hook": None}, "hook is missing"),
        ({"hook": "blocks.7.hook_resid_post"}, "blocks.7"),
        ({"texts": []}, "texts: there is none"),
        ({"texts": ""}, "no token in any of them"),
        ({"given": torch.randn(300, 16)}, "texts: only with a model"),
        ({"given": torch.randn(300, 15), "texts": None, "hook": None}, "rows of width 15, but the dictionary takes 16"),
    ],
)
def test_what_does_not_fit_is_refused(model: Model, arguments: dict[str, Any], words_of_error: str):
    given = {"given": model, "latent": 3, "n": 4, "texts": TEXTS, "hook": HOOK, **arguments}
    with pytest.raises(sae.UserError, match=words_of_error):
        sae.top_examples(given.pop("given"), random_relu(), given.pop("latent"), given.pop("n"), **given)


@pytest.mark.usefixtures("shapes_unchecked")
def test_texts_that_are_none_are_refused(model: Model):
    with pytest.raises(sae.UserError, match="int 3; give a text"):
        sae.tokens(model, ["w1", 3])  # pyright: ignore
    with pytest.raises(sae.UserError, match="without a tokenizer"):
        sae.tokens(torch.nn.ReLU(), "w1")

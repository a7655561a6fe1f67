"""`sae graph`: its page is whole, loads nothing and lets no token act; user errors are one line."""

from __future__ import annotations

import json
import random
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

import sae
from pipelines.explore.graph_drawing import draw
from sae.dictionaries.relu import Relu
from tests.pipelines.explore.test_explore import HOSTILE, Page, hashes
from tests.toys.language.texts import stories

Call = Callable[..., tuple[int, str, str]]
PLACES = ("blocks.0.mlp.hook_in -> blocks.0.mlp.hook_out", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def case(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, a model among whose words are some that would act, and two dictionaries."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder, rng = tmp_path_factory.mktemp("graph"), random.Random(0)
    shutil.copytree(tiny_models["gpt2"], folder / "model")
    names = ["<s>", "</s>", "<unk>", *HOSTILE[:3], *(f"w{i}" for i in range(41))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    documents = (" ".join(rng.choice(names[3:]) for _ in range(20)) for _ in range(60))
    (folder / "text.txt").write_text("|".join(documents))
    source = {"kind": "transformer", "model": str(folder / "model"), "text": str(folder / "text.txt"), "separator": "|",
              "hook": PLACES[1], "context": 12, "heldout_share": 0.3}  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}" for name, value in source.items()]
    head = f'name = "graphed"\ntitle = {json.dumps(HOSTILE[0])}\nruntime = {{device = "cpu", threads = 1}}\n'
    head += 'dictionary = {kind = "relu", n_latents = 24, l1 = 0.1}\n'
    (folder / "c.toml").write_text("\n".join([head, "[source]", *lines]) + "\n")
    for i in (0, 1):
        W = torch.randn(24, 16, generator=torch.Generator().manual_seed(i))
        card = {"source": {"kind": "transformer", "hook": PLACES[1]}} if i else {}
        sae.save(Relu(W.T.contiguous() * 0.3, W * 0.2, torch.zeros(24), torch.zeros(16), card=card), folder / f"d{i}")
    return folder


def arguments(case: Path) -> list[object]:
    return ["graph", case / "c.toml", f"{PLACES[0]}={case / 'd0'}", case / "d1", "--out", case / "runs"]


def test_the_page_is_whole_and_no_token_acts(call: Call, case: Path) -> None:
    words = ["--text", f"w1 {HOSTILE[0]} w3 {HOSTILE[1]} w5", "--prompts", 2, "--draws", 2]
    code, printed, warned = call(*arguments(case), *words)
    folder = case / "runs" / "graphed-graph"
    assert code == 0 and f"page: {folder / 'index.html'}" in printed, warned
    assert "share of the effect explained, 2 prompts" in printed
    page, text = Page(folder / "index.html"), (folder / "index.html").read_text()
    assert not re.search(r"https?://|fetch\(|@import|url\(|<link", text) and not page.links
    assert not any(tag == "img" or name.startswith("on") for tag, attrs in page.tags for name in attrs)
    assert text.count("<script") == text.count("</script") == 1
    assert HOSTILE[0] in page.text and HOSTILE[1] in page.text and "How to read it" in page.text
    data = json.loads((folder / "graph.json").read_text())
    drawn = [attrs for tag, attrs in page.tags if tag == "g" and str(attrs.get("class")).startswith("node ")]
    assert len(drawn) == len(data["graph"]["nodes"]) and len(data["graph"]["edges"]) == text.count('class="edge ')
    assert data["places"] == list(PLACES) and data["whole_graph"]["largest_remainder"] > 1e-3  # a plain MLP is between
    assert all(a != b for a, b, *_ in data["graph"]["edges"])
    before = hashes(folder)
    assert call(*arguments(case), *words)[0] == 0 and hashes(folder) == before


def test_rows_tokens_and_latents_can_be_asked_about(call: Call, case: Path) -> None:
    target = ["--row", 2, "--position", 4, "--token", "w7", "--against", "#3", "--draws", 1, "--contexts", 0]
    assert call(*arguments(case), *target)[0] == 0
    data = json.loads((case / "runs" / "graphed-graph" / "graph.json").read_text())
    assert data["target"] == {"position": 4, "token": 13, "against": 3} and len(data["prompt"]) == 5
    latent = next(node for node in data["graph"]["nodes"] if node["place"] == PLACES[1] and node["latent"] is not None)
    asked = ["--row", 2, "--position", latent["position"], "--latent", f"{PLACES[1]}:{latent['latent']}", "--draws", 1]
    assert call(*arguments(case), *asked)[0] == 0
    again = json.loads((case / "runs" / "graphed-graph" / "graph.json").read_text())
    assert again["target"] == {"place": PLACES[1], "position": latent["position"], "latent": latent["latent"]}
    assert again["whole_graph"]["target_value"] == pytest.approx(latent["value"], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--text", "w1", "--token", "w1 w2"], ["w1 w2", "2 tokens", "#"]),
        (["--token", "#999"], ["token = 999", "logits"]),
        (["--row", "99999"], ["row = 99999", "held-out rows"]),
        (["--position", "50"], ["position = 50", "tokens"]),
        (["--latent", "17"], ["PLACE:NUMBER"]),
        (["--nodes", "0"], ["nodes"]),
        (["--pages", "HERE"], ["was not written by `sae graph`"]),
        (["AGAIN"], ["another dictionary at"]),
        (["UNNAMED"], ["names no hook point", "HOOK="]),
    ],
)
def test_mistakes_are_told_in_one_line(call: Call, case: Path, change: list[str], words: list[str]) -> None:
    named = {"HERE": case / "d0", "AGAIN": case / "d1", "UNNAMED": case / "d0"}
    code, printed, warned = call(*arguments(case), *(named.get(c, c) for c in change))
    assert code == 2 and printed == "" and warned.startswith("sae: ") and warned.count("\n") == 1, warned
    assert all(word in warned for word in words), warned


def test_without_dictionaries_the_run_has_to_be_done(call: Call, case: Path) -> None:
    code, _, warned = call("graph", case / "c.toml", "--out", case / "other")
    assert code == 2 and "is not done" in warned and "sae run" in warned, warned
    assert tomllib.loads((case / "c.toml").read_text())["name"] == "graphed"


def test_a_toy_is_asked_at_its_answers(call: Call, tmp_path: Path) -> None:
    hooks = [f"blocks.{i}.attn.hook_z" for i in (0, 1)]
    eye = torch.eye(4)
    for i in (0, 1):
        sae.save(Relu.tied(torch.cat([eye, -eye])), tmp_path / f"d{i}")
    (tmp_path / "toy.toml").write_text(
        f'''name = "toy"
        baselines = {{kinds = ["pca"]}}
        runtime = {{device = "cpu", threads = 1}}
        [source]
        kind = "attention"
        task = {{kind = "repeats", vocabulary = 6, shortest = 2, longest = 3, length = 8}}
        model = {{n_layers = 2, n_heads = 2, d_head = 2, d_model = 8}}
        training = {{steps = 2, batch_size = 8}}
        hook = "{hooks[1]}"
        n_rows = 20
        n_heldout_rows = 8'''
    )
    dictionaries = [f"{hook}={tmp_path / f'd{i}'}" for i, hook in enumerate(hooks)]
    words = ["--attention", "through", "--ablate", "zero", "--draws", 1, "--out", tmp_path / "runs"]
    code, _, warned = call("graph", tmp_path / "toy.toml", *dictionaries, *words)
    assert code == 0, warned
    data = json.loads((tmp_path / "runs" / "toy-graph" / "graph.json").read_text())
    assert data["graph"]["tokens"][0] == " BOS" and len(data["prompt"]) == data["target"]["position"] + 1
    assert data["shares"]["errors"][0] == pytest.approx(0, abs=1e-4)  # the neuron basis leaves none
    assert data["shares"]["latents"][0] == pytest.approx(1, abs=1e-4)
    code, _, warned = call("graph", tmp_path / "toy.toml", *dictionaries, "--text", "3 4", "--out", tmp_path / "runs")
    assert code == 2 and "reads no text" in warned
    assert call("graph", tmp_path / "toy.toml", *dictionaries, "--token", "3", *words)[0] == 0


def test_a_picture_holds_every_node_and_stays_inside() -> None:
    nodes = [
        {"kind": "input", "row": 0, "position": 0, "score": 0.5, "name": "a"},
        *({"kind": "latent", "row": 1, "position": 1, "score": 0.1 * k, "name": f"l{k}"} for k in range(9)),
        {"kind": "error", "row": 1, "position": 1, "score": 0.0, "name": "e"},
        {"kind": "target", "row": 2, "position": 1, "score": 1.0, "name": "a long name of a target"},
    ]
    data = {"rows": ["input", "p", "target"], "tokens": ["a", "b"], "nodes": nodes,
            "edges": [[0, 1, 0.5, 0.5], [1, 11, -0.2, 0.1]]}  # fmt: skip
    picture = draw(data)
    centres = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture.svg)
    assert len(set(centres)) == 9
    assert all(0 < float(x) < picture.width and 0 < float(y) < picture.height for x, y in centres)
    assert 'class="edge down"' in picture.svg and picture.svg.count('class="edge ') == 2
    left, width = map(
        float, re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="28"', picture.svg).groups()
    )
    assert left > 0 and left + width <= picture.width


def test_a_model_that_is_trained_first_has_its_tokens(call: Call, tmp_path: Path) -> None:
    hook = "blocks.0.hook_resid_post"
    stories(tmp_path / "stories.txt")
    source = {
        "kind": "language",
        "text": str(tmp_path / "stories.txt"),
        "separator": "|",
        "hook": hook,
        "context": 12,
        "heldout_share": 0.3,
    }
    settings = {
        "model": {"d_model": 16, "n_heads": 2, "mlp_ratio": 2, "n_ctx": 12},
        "tokenizer": {"n_tokens": 280},
        "training": {"steps": 4, "batch_size": 4, "measure_every": 4},
    }
    tables = [(f"[source.{name}]", of) for name, of in settings.items()]
    head = 'name = "small"\nruntime = {device = "cpu", threads = 1}\n'
    head += 'dictionary = {kind = "relu", n_latents = 24, l1 = 0.1}\n'
    lines = [head]
    for name, table in [("[source]", source), *tables]:
        lines += [name, *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (tmp_path / "c.toml").write_text("\n".join(lines) + "\n")
    W = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    sae.save(Relu(W.T.contiguous(), W * 0.2, torch.zeros(24), torch.zeros(16)), tmp_path / "d")
    given = ["graph", tmp_path / "c.toml", f"{hook}={tmp_path / 'd'}", "--out", tmp_path / "runs"]
    code, printed, warned = call(*given, "--text", "Lily had a ball", "--token", " had", "--draws", 2)
    assert code == 0, printed + warned
    page = (tmp_path / "runs" / "small-graph" / "index.html").read_text(encoding="utf-8")
    assert "Lily" in page
    code, _, warned = call(*given, "--text", "Lily had a ball. The ball was red.")
    assert code == 2 and re.fullmatch(r"sae: text: \d+ tokens, but \S+ takes at most 12; shorten it", warned.strip())

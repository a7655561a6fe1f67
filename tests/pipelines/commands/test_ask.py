"""`sae ask`: every question is answered on a tiny model or a toy with its controls; user errors are one line."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import sae
from pipelines import cli
from pipelines import question as questions
from pipelines.commands import ask as command
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.question import Answer, answer_question, question_config
from pipelines.steps.progress import Board
from sae.dictionaries.topk import TopK
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval
from sae.registry import UserError, configurable

Table = dict[str, Any]
Put = Callable[..., Answer]
TOY = {"kind": "independent", "n_features": 8, "d_in": 8, "probability": 0.1}
SMALL = {
    "monosemantic": {"n_rows": 2000, "k": 4, "shuffles": 5},
    "smuggling": {"n_rows": 500},
    "readers": {"n_tasks": 2, "min_count": 5, "shuffles": 2},
    "all_units": {"n_tasks": 1, "min_count": 5, "draws": 2, "most": 4},
    "positional": {"n_rows": 40, "components": 3, "draws": 20},
    "decoder": {"n_rows": 2000, "draws": 3},
    "heads": {"outcomes": "frequent", "n_rows": 20, "n_outcomes": 4, "events": 5, "draws": 20},
    "neuron_map": {"shuffles": 3, "randoms": 2},
    "embeddings": {"draws": 2},
    "superposition": {"n_rows": 600, "n_draws": 2, "n_gaussian": 2, "n_starts": 2},
    "genres": {"share": 0.6, "least": 20, "halvings": 2, "permutations": 9, "draws": 3},
}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Documents of random words, labelled by whether their last word is one of the first 20."""
    draw = generator("words")
    lines = [" ".join(f"w{int(i)}" for i in torch.randint(40, (30,), generator=draw)) for _ in range(120)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    labelled = [{"text": line, "labels": {"early": int(int(line.rsplit("w")[-1]) < 20)}} for line in lines]
    (tmp_path / "labels.jsonl").write_text("\n".join(json.dumps(record) for record in labelled))
    (tmp_path / "genres" / "late").mkdir(parents=True)
    for file, genre in (("early.jsonl", range(20)), ("late/text.jsonl", range(20, 40))):
        of_genre = [" ".join(f"w{genre[int(i)]}" for i in torch.randint(20, (30,), generator=draw)) for _ in range(20)]
        (tmp_path / "genres" / file).write_text("\n".join(json.dumps({"text": line}) for line in of_genre))
    return tmp_path


@pytest.fixture
def of_model(tiny_models: Mapping[str, Path], words: Path) -> Callable[..., Table]:
    """A config for one of the tiny models."""

    def table(model: str = "llama", hook: str = "blocks.1.hook_resid_post", **source: Any) -> Table:
        given = {"model": str(tiny_models.get(model, model)), "text": str(words / "text.jsonl"), "context": 16}
        return {
            "name": "tiny",
            "source": {"kind": "transformer", "hook": hook, "heldout_share": 0.4, **given, **source},
            "dictionary": {"kind": "topk", "n_latents": 32, "k": 4},
            "runtime": {"device": "cpu", "threads": 1},
            "ask": {**SMALL, "genres": {**SMALL["genres"], "texts": str(words / "genres")}},
        }

    return table


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Asks a question and compares the written answer with the returned one."""

    def put(question: str, table: Table, dictionary: Path | None = None) -> Answer:
        answer, file = answer_question(
            question, parse(table), dictionary, tmp_path / "runs", Board(Console(quiet=True))
        )
        written = json.loads(file.read_text())
        assert written["question"] == question and written["settings"]["kind"] == question
        assert [t["title"] for t in written["tables"]] == [t.title for t in answer.tables]
        assert [len(t["rows"]) for t in written["tables"]] == [len(t.rows) for t in answer.tables]
        assert all(len(row) == len(t.columns) for t in answer.tables for row in t.rows)
        return answer

    return put


def saved(folder: Path, d_in: int, n_latents: int = 32) -> Path:
    """A dictionary of random directions."""
    rows = unit(torch.randn(n_latents, d_in, generator=generator("rows")))
    d = TopK(rows.T.contiguous(), rows, torch.zeros(n_latents), torch.zeros(d_in), k=4)
    sae.save(d, folder)
    return folder


def intervals(answer: Answer) -> list[Interval]:
    return [cell for t in answer.tables for row in t.rows for cell in row if isinstance(cell, Interval)]


@pytest.mark.parametrize("question", sorted(SMALL))
def test_every_question_has_an_answer_with_intervals(
    question: str, put: Put, of_model: Callable[..., Table], words: Path
):
    hook = "blocks.1.mlp.hook_post" if question == "smuggling" else "blocks.1.hook_resid_post"
    labels = {"labels": str(words / "labels.jsonl")} if question in ("monosemantic", "readers", "all_units") else {}
    d = None if question == "smuggling" else saved(words / "d", 16)
    found = intervals(put(question, of_model(hook=hook, **labels), d))
    assert len(found) >= 2
    known = [one for one in found if not math.isnan(one.value + one.low)]
    assert known and all(one.low <= one.high for one in known)


def test_there_is_a_setting_here_for_every_question():
    assert set(SMALL) == set(configurable("pipelines.questions"))


def test_settings_of_questions_change_no_step(of_model: Callable[..., Table]):
    table = of_model()
    without = {name: value for name, value in table.items() if name != "ask"}
    assert [s.key for s in plan(parse(table))] == [s.key for s in plan(parse(without))]


def test_units_of_a_toy_that_are_its_features_are_all_monosemantic(put: Put, tmp_path: Path):
    source = {"kind": "features", "n_features": 12, "d_in": 12, "directions": {"kind": "orthonormal"},
              "activity": {"kind": "independent", "probability": 0.3}, "values": {"kind": "uniform"}}  # fmt: skip
    table = {"name": "toy", "source": source, "dictionary": {"kind": "relu", "n_latents": 12, "l1": 0.1},
             "ask": {"monosemantic": {"n_rows": 4000}}, "runtime": {"device": "cpu", "threads": 1}}  # fmt: skip
    config = parse(table)
    F = config.sources[0].build().truth.directions  # pyright: ignore
    d = TopK(F.T.contiguous(), F, torch.zeros(12), torch.zeros(12), k=3)
    sae.save(d, tmp_path / "oracle")
    answer, _ = answer_question(
        "monosemantic", config, tmp_path / "oracle", tmp_path / "runs", Board(Console(quiet=True))
    )
    share = {row[0]: row[2] for row in answer.tables[0].rows}
    alone = {row[0]: row[4] for row in answer.tables[0].rows}
    latents, turned = alone["latents"], alone["random directions"]
    assert isinstance(latents, Interval) and isinstance(turned, Interval)
    # The top examples of any direction agree on all the features that are in it; of a feature's own, on that alone.
    assert latents.value == 1 == share["latents"].value == share["random directions"].value  # pyright: ignore
    assert turned.high < latents.low
    assert all(isinstance(row[3], Interval) and row[3].high < 0.2 for row in answer.tables[0].rows)


def test_the_rows_of_a_text_are_known_by_their_own_tokens(put: Put, of_model: Callable[..., Table]):
    """At the embedding a unit is a function of the token, and of nothing else."""
    answer = put("monosemantic", of_model(hook="hook_embed", **{"seed": 1}))
    share = {(row[0], row[1]): row[2] for row in answer.tables[0].rows}
    token, following = share["neurons", "token"], share["neurons", "next token"]
    assert isinstance(token, Interval) and isinstance(following, Interval)
    assert token.value == 1 and following.value < 0.2


def test_latents_of_genres_are_those_of_the_tokens_that_only_one_has(
    put: Put, of_model: Callable[..., Table], words: Path
):
    """At the embedding, whether a latent fires is a function of the token."""
    table, folder = of_model(hook="hook_embed"), words / "genres"
    answer = put("genres", table, saved(words / "d", 16))
    model, d = Model.boot(table["source"]["model"]), sae.load(words / "d")
    rates: list[torch.Tensor] = []
    for file in ("early.jsonl", "late/text.jsonl"):
        text = " ".join(json.loads(line)["text"] for line in (folder / file).read_text().splitlines())
        ids = torch.tensor([load_tokenizer(model.name)(text, add_special_tokens=False)["input_ids"]])
        [acts] = model.activations_at(ids, torch.ones_like(ids, dtype=torch.bool), ["hook_embed"])
        rates.append((d.encode(acts[0].float()) > 0).float().mean(0))
    early, late = rates
    expected = {"early": early >= 0.6 * (early + late), "late": late >= 0.6 * (early + late)}
    counts = early + late > 20 / 600
    assert {name: [j for j in range(32) if is_of[j] and counts[j]] for name, is_of in expected.items()} == (
        answer.data["latents"]
    )
    assert [row[0] for row in answer.tables[0].rows] == ["early", "late"] and len(answer.tables) == 3


def test_genres_with_the_same_texts_have_no_latents(put: Put, of_model: Callable[..., Table], words: Path):
    (words / "genres" / "early.jsonl").write_text((words / "genres" / "late" / "text.jsonl").read_text())
    answer = put("genres", of_model(), saved(words / "d", 16))
    assert [row[3] for row in answer.tables[0].rows] == [0, 0] and len(answer.tables) == 1
    assert str(answer.facts["subspaces"]).startswith("not shown: [0, 0] latents are specific")


def test_what_is_no_folder_of_genres_is_refused(put: Put, of_model: Callable[..., Table], words: Path):
    d, table = saved(words / "d", 16), of_model()
    (words / "genres" / "early.jsonl").write_text('{"text": "w1 w2"}\n')
    with pytest.raises(UserError, match=r"early\.jsonl has 1 documents of text; give at least 5"):
        put("genres", table, d)
    (words / "genres" / "early.jsonl").unlink()
    with pytest.raises(UserError, match="1 genres; put two or more in it"):
        put("genres", table, d)
    for texts, message in ((None, "ask.genres.texts is missing"), (str(words / "no"), "no such folder")):
        with pytest.raises(UserError, match=message):
            put("genres", {**table, "ask": {"genres": {"texts": texts} if texts else {}}}, d)


def test_a_norm_behind_solu_is_found_and_smuggles(put: Put, of_model: Callable[..., Table], older_hub: object):
    table = of_model("NeelNanda/SoLU_tiny", "blocks.0.mlp.hook_post")
    answer = put("smuggling", table)
    assert answer.facts["norm behind the activation"] == "LayerNorm"
    before, behind, added = (row[1] for row in answer.tables[0].rows)
    assert isinstance(before, Interval) and isinstance(behind, Interval) and isinstance(added, Interval)
    assert added.value == pytest.approx(behind.value - before.value) and added.low > 0


def test_without_such_a_norm_nothing_is_added(put: Put, of_model: Callable[..., Table]):
    answer = put("smuggling", of_model("gpt2", "blocks.0.mlp.hook_post"))
    assert answer.tables[0].rows[2][1] == Interval(0.0, 0.0, 0.0)


def test_again_it_says_the_same_to_the_byte(put: Put, of_model: Callable[..., Table], tmp_path: Path):
    file = tmp_path / "runs" / "tiny-answers" / "positional.json"
    put("positional", of_model())
    first = file.read_bytes()
    put("positional", of_model())
    assert file.read_bytes() == first


@pytest.mark.parametrize(
    ("question", "change", "message"),
    [
        ("monosemantc", {}, "'monosemantc' is not a known question: did you mean 'monosemantic'"),
        ("heads", {"ask": {"heds": {}}}, "'heds' is not a known question"),
        ("heads", {"ask": {"heads": {"n_row": 5}}}, "ask.heads.n_row"),
        ("heads", {"ask": {"heads": {"least": 0}}}, "ask.heads.least = 0"),
        ("decoder", {}, "give its folder"),
        ("readers", {}, "source.labels=FILE"),
        ("neuron_map", {"ask": {"neuron_map": {"layer": 7}}}, "the model has 2 layers"),
        ("heads", {"ask": {"heads": {"least": 10_000, "n_rows": 5}}}, "give more rows"),
    ],
)
def test_mistakes_are_told_in_one_line(
    question: str, change: Table, message: str, put: Put, of_model: Callable[..., Table]
):
    with pytest.raises(ValueError) as caught:
        put(question, {**of_model(), **change})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_who_cannot_be_asked_says_so(put: Put, of_model: Callable[..., Table], words: Path):
    toy = {"name": "toy", "source": TOY, "dictionary": {"kind": "relu", "n_latents": 8, "l1": 1},
           "runtime": {"device": "cpu"}}  # fmt: skip
    with pytest.raises(ValueError, match="needs a model's activations"):
        put("heads", toy)
    with pytest.raises(ValueError, match="the config has 2"):
        put("monosemantic", {**toy, "source": {**TOY, "seed": [0, 1]}})
    with pytest.raises(ValueError, match="width 5, but the source has width 16"):
        put("monosemantic", of_model(), saved(words / "narrow", 5))
    with pytest.raises(ValueError, match="residual stream"):
        put("positional", of_model(hook="blocks.1.mlp.hook_post"))


def test_settings_without_a_question_are_its_defaults():
    assert question_config("heads", {}).model_dump()["how"] == "mean"


def test_the_command_prints_tables_and_where_the_answer_lies(
    of_model: Callable[..., Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    source = of_model()["source"]
    lines = ['name = "asked"', "[source]", *(f"{k} = {json.dumps(v)}" for k, v in source.items()),
             "[dictionary]", 'kind = "topk"', "n_latents = 8", "k = 2", "[runtime]", 'device = "cpu"']  # fmt: skip
    config = tmp_path / "asked.toml"
    config.write_text("\n".join(lines))
    arguments = ["ask", "embeddings", str(config), "--set", "ask.embeddings.draws=2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["sae", *arguments])
    cli.main()
    printed = capsys.readouterr().out
    assert "embedding: 47 rows in 16 dimensions" in printed and "effective rank" in printed
    assert str(tmp_path / "out" / "asked-answers" / "embeddings.json") in printed


def test_what_is_not_known_is_said_in_words_and_written_as_null():
    nothing = Interval(math.nan, math.nan, math.nan)
    assert command._cell_text(nothing) == "not known"  # pyright: ignore[reportPrivateUsage]
    assert questions._number({"a": nothing})["a"]["value"] is None  # pyright: ignore[reportPrivateUsage]


@pytest.mark.slow
def test_on_a_trained_model_two_heads_write_the_position_and_neurons_mean_more_than_directions(
    put: Put, shared_data: Path
):
    model, text = shared_data / "models" / "stories260k", shared_data / "text" / "tinystories_train.txt"
    if not model.is_dir() or not text.is_file():
        pytest.skip(f"no model or text in {shared_data}")
    source = {"kind": "transformer", "model": str(model), "text": str(text), "context": 128, "n_tokens": 100_000}
    table = {"name": "stories", "dictionary": {"kind": "topk", "n_latents": 8, "k": 2}, "runtime": {"device": "cpu"}}
    stream = {**table, "source": {**source, "hook": "blocks.3.hook_resid_post"}}
    found = put("positional", {**stream, "ask": {"positional": {"n_rows": 600}}})
    written = {row[0]: row[1] for row in found.tables[1].rows if row[4] == "yes"}
    assert list(written)[:2] == ["head 3.0", "head 1.1"]
    assert isinstance(written["head 3.0"], Interval) and written["head 3.0"].low > 0.25
    assert not any("MLP" in str(name) for name in written)
    neurons = put("monosemantic", {**table, "source": {**source, "hook": "blocks.2.mlp.hook_post"}})
    share = {(row[0], row[1]): row[2] for row in neurons.tables[0].rows}
    own, turned = share["neurons", "any of them"], share["random directions", "any of them"]
    assert isinstance(own, Interval) and isinstance(turned, Interval) and own.value > 1.5 * turned.value
    assert all(isinstance(row[3], Interval) and row[3].high < 0.02 for row in neurons.tables[0].rows)

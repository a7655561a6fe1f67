"""Small language models as a source: trained once, and then used as any other model."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pipelines.config.config import Config as RunConfig
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.activations.disk_source import Activations
from sae.analysis.latents.words import vocabulary
from sae.model.hooked import Model
from sae.probing import TaskSettings, examples_of
from sae.registry import UserError
from sae.source import MODEL
from sae.sources.language import Config
from sae.sources.transformer import Config as Transformer
from sae.toys.language import saved
from tests.streaming import Killed, bytes_of, columns, kill_after, silent
from tests.toys.language.texts import NAMES, THINGS, stories

POST = "blocks.0.mlp.hook_post"
PAIRS = list(product(NAMES, THINGS))
BASE: dict[str, Any] = {
    "hook": POST,
    "separator": "|",
    "heldout_share": 0.3,
    "context": 12,
    "model": {"d_model": 16, "n_heads": 2, "mlp_ratio": 2, "n_ctx": 12},
    "tokenizer": {"n_tokens": 280},
    "training": {"steps": 8, "batch_size": 4, "measure_every": 4},
}


def settings(folder: Path, **others: Any) -> dict[str, Any]:
    text = folder / "stories.txt"
    return {**BASE, "text": str(text if text.is_file() else stories(text)), **others}


def prepared(config: Config, directory: Path) -> Activations:
    config.prepare(directory, silent, "cpu")
    source = config.open(directory, "cpu")
    assert isinstance(source, Activations)
    return source


def test_it_is_what_the_source_transformer_makes_of_its_model(tmp_path: Path):
    config = Config(**settings(tmp_path))
    source = prepared(config, tmp_path / "language")
    shared = {
        name: value for name, value in settings(tmp_path).items() if name not in ("model", "tokenizer", "training")
    }
    other = Transformer(**shared, model=str(tmp_path / "language" / MODEL))
    other.prepare(tmp_path / "transformer", silent, "cpu")
    of_other = other.open(tmp_path / "transformer", "cpu")
    for split in ("train", "choose", "test"):
        ours, theirs = columns(source, split), columns(of_other, split)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert config.provides == other.provides == {"model"} and source.facts["model_scores"].keys() == {
        "model", "model_in_rows", "unigram", "bigram", "trigram"
    }  # fmt: skip
    words = vocabulary(source)
    assert words(0) == "<|endoftext|>" and "Lily" in {words(i).strip() for i in range(280)}


def test_interrupted_training_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0.0)
    model = Config(**settings(tmp_path)).model_settings
    model.train(tmp_path / "whole", silent, "cpu")
    for stop in (1, 2, 2):
        with pytest.raises(Killed):
            model.train(tmp_path / "killed", kill_after(stop), "cpu")
    assert len(list((tmp_path / "killed").glob("state-*"))) == 2
    done: list[int] = []
    model.train(tmp_path / "killed", lambda n, total, unit: done.append(n), "cpu")
    assert done[1] > 5  # it went on from the last state
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_state_of_other_training_is_not_continued_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0.0)
    for seed in (1, 0):
        with pytest.raises(Killed):
            Config(**settings(tmp_path, seed=seed)).model_settings.train(tmp_path / "model", kill_after(4), "cpu")
    model = Config(**settings(tmp_path)).model_settings
    model.train(tmp_path / "model", silent, "cpu")
    model.train(tmp_path / "whole", silent, "cpu")
    assert bytes_of(tmp_path / "model") == bytes_of(tmp_path / "whole")
    with pytest.raises(UserError, match="contains a model with other settings"):
        Config(**settings(tmp_path, seed=1)).model_settings.train(tmp_path / "model", silent, "cpu")


def run_config(folder: Path, **source: Any) -> RunConfig:
    table = {
        "name": "tiny",
        "source": {"kind": "language", **settings(folder), **source},
        "dictionary": {"kind": "relu", "n_latents": 8, "l1": 0.1},
        "train": {"steps": 2, "batch_size": 8},
    }
    return parse(json.loads(json.dumps(table)))


def test_a_model_is_trained_once_for_all_hook_points_and_once_for_each_seed(tmp_path: Path):
    steps = plan(run_config(tmp_path, hook=[POST, "blocks.0.hook_resid_post"], seed=[0, 1]))
    models, sources = ([s for s in steps if s.stage == stage] for stage in ("model", "stream"))
    assert len(models) == 2 and len(sources) == 4
    assert [s.inputs[MODEL].key for s in sources].count(models[0].key) == 2
    longer = plan(run_config(tmp_path, n_tokens=500))
    assert longer[0].key == models[0].key and longer[1].key != sources[0].key
    stories(tmp_path / "stories.txt", seed=1)
    assert plan(run_config(tmp_path))[0].key != models[0].key


def test_a_run_trains_the_model_in_a_step_of_its_own(tmp_path: Path):
    config, store = run_config(tmp_path), Store(tmp_path / "out")
    steps = [step for step in plan(config) if step.stage in ("model", "stream")]
    run(steps, store, execution(config.runtime), Board(Console(quiet=True)))
    model, source = (store.directory(step) for step in steps)
    of_source = bytes_of(source / MODEL)
    assert of_source == {name: content for name, content in bytes_of(model).items() if name != "manifest.json"}
    assert Model.boot(str(model)).d_model == 16
    assert "Kneser-Ney trigrams" in config.sources[0].model_settings.summary(model)  # pyright: ignore
    assert json.loads((source / "source.json").read_text())["model_scores"]["trigram"] > 0


def test_a_widened_model_is_trained_in_one_mlp_only_and_interrupted_training_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepared(Config(**settings(tmp_path)), tmp_path / "narrow")
    of = tmp_path / "narrow" / MODEL
    wide = {"model": {**BASE["model"], "mlp_ratio": 6}, "widening": {"of": of, "noise": 0.1}}
    config = Config(**settings(tmp_path, **wide))
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0.0)
    prepared(config, tmp_path / "whole")
    with pytest.raises(Killed):
        config.prepare(tmp_path / "cut", kill_after(3), "cpu")
    prepared(config, tmp_path / "cut")
    assert bytes_of(tmp_path / "cut" / MODEL) == bytes_of(tmp_path / "whole" / MODEL)
    narrow, trained = (saved.load_language_network(folder).state_dict() for folder in (of, tmp_path / "whole" / MODEL))
    changed = {name for name, value in trained.items() if not torch.equal(value, narrow[name])}
    assert changed == {f"blocks.0.mlp.{part}" for part in ("in.weight", "in.bias", "out.weight", "out.bias")}
    named = config.model_settings.external_files()
    assert {path.name for name, path in named.items() if name.startswith("widening/")} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }, "not the record of the run, whose text may lie elsewhere"  # fmt: skip
    with pytest.raises(UserError, match="no trained small language model; train it first"):
        Config(**settings(tmp_path, **{**wide, "widening": {"of": tmp_path}})).check_plan()


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"context": 13}, "context = 13: the model takes at most model.n_ctx = 12"),
        ({"text": "owner/name"}, "text = 'owner/name': a model is trained on local text only"),
        ({"training": {"warm_up": 0.6, "decay": 0.5}}, "warm_up [+] decay = 1.1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, others: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings(tmp_path, **others))


def test_hooks_that_the_model_cannot_have_are_found_before_it_is_trained(tmp_path: Path):
    for others, words in (
        ({"hook": "blocks.1.hook_resid_post"}, "the model has 1 blocks"),
        ({"model": {**BASE["model"], "mlp_ratio": 0}}, "a model with mlp_ratio = 0 has no MLP"),
    ):
        with pytest.raises(UserError, match=words):
            Config(**settings(tmp_path, **others)).check_plan()


def test_a_text_that_is_too_short_is_refused(tmp_path: Path):
    config = Config(**settings(tmp_path, text=str(stories(tmp_path / "few.txt", n=3))))
    with pytest.raises(UserError, match="fewer than two rows of n_ctx = 12"):
        config.prepare(tmp_path / "source", silent, "cpu")


def test_other_text_measures_the_model(tmp_path: Path):
    other = stories(tmp_path / "other.txt", 40, seed=1)
    model = Config(**settings(tmp_path, heldout_text=str(other))).model_settings
    model.train(tmp_path / "model", silent, "cpu")
    record = saved.training_record(tmp_path / "model")
    assert record["heldout_tokens"] * record["bytes_per_token"] == pytest.approx(len(other.read_bytes()))
    other.write_text("Few.")
    with pytest.raises(UserError, match=r"heldout_text = .*other\.txt': . tokens, fewer than two rows"):
        model.train(tmp_path / "again", silent, "cpu")
    assert not list((tmp_path / "again").glob("state*"))


def test_a_given_tokenizer_is_used(tmp_path: Path, tiny_models: dict[str, Path]):
    file = tmp_path / "words.txt"
    file.write_text("|".join(" ".join(f"w{(i * j) % 40}" for i in range(1, 30)) for j in range(1, 60)))
    config = Config(**settings(tmp_path, text=str(file), tokenizer={"folder": str(tiny_models["gpt2"])}))
    source = prepared(config, tmp_path / "source")
    assert vocabulary(source)(5).strip() == "w1"
    assert "tokenizer/tokenizer.json" in config.model_settings.external_files()


def test_labelled_texts_are_read_with_its_tokenizer(tmp_path: Path):
    labels = tmp_path / "labels.jsonl"
    rows = ({"text": f"{name} had a {thing}.", "labels": {"short": int(len(thing) < 4)}} for name, thing in PAIRS)
    labels.write_text("\n".join(map(json.dumps, rows)))
    source = prepared(Config(**settings(tmp_path, labels=str(labels))), tmp_path / "source")
    halves = source.labelled()
    assert halves is not None and sum(len(half.acts) for half in halves) == len(PAIRS)
    examples = examples_of(source, TaskSettings(min_count=1), source.config)
    assert {part: set(of.labels) for part, of in examples.items()} == {"train": {"short"}, "test": {"short"}}

"""Model cards: printing them, the card of a run's best dictionary, and pushing to the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import sae
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.report.model_card import complete_card
from pipelines.runner import execution, run
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.dictionaries.relu import Relu
from sae.numerics.card import SCHEMA, wrong_entries
from sae.sources.independent import Config as Independent

Call = Callable[..., tuple[int, str, str]]


def ran(tiny: dict[str, Any], out: Path) -> Path:
    """The report of a tiny run."""
    settings = parse(tiny)
    steps, store = plan(settings), Store(out)
    run(steps, store, execution(settings.runtime), Board(Console(quiet=True)))
    return store.directory(steps[-1])


def test_the_best_of_a_run_knows_its_scores_and_settings(tiny: dict[str, Any], tmp_path: Path, call: Call):
    first, second = ran(tiny, tmp_path / "a"), ran(tiny, tmp_path / "b")
    assert (first / "best" / "dictionary.json").read_bytes() == (second / "best" / "dictionary.json").read_bytes()
    d = sae.load(first / "best")
    assert d.card["scores"]["mcc"] > 0 and d.card["source"]["kind"] == "independent" and d.card["input_scale"] > 0
    step = next(f for f in (tmp_path / "a").glob("train-*") if f.name == d.card["step"])
    trained = sae.load(step)
    assert torch.equal(trained.W_enc, d.W_enc) and "scores" not in trained.card
    same_as_fitted(trained)
    for step in (f for f in (tmp_path / "a").glob("train-*") if f.is_dir()):
        card = sae.load(step).card
        assert wrong_entries(card) == [] and set(card) <= set(SCHEMA)
    assert wrong_entries(d.card) == []
    code, told, _ = call("show", first / "best")
    assert code == 0
    for words in ("n_latents", "input scale", "scores", "mcc", "train.steps", "independent"):
        assert words in told, told


def same_as_fitted(d: sae.Dictionary) -> None:
    """Asserts that `sae.fit` with the settings on the card of a step's dictionary makes it again, with the same card.

    They once had different entries: `sae.fit` one flat table `training`, and no source.
    """
    table = dict(d.card["dictionary"])
    source = Independent(**d.card["source"]).build()
    [fitted] = sae.fit(
        source, table.pop("kind"), seeds=d.card["seed"], train=sae.TrainConfig(**d.card["train"]), **table
    )
    assert fitted.card == {name: entry for name, entry in d.card.items() if name != "step"}
    assert torch.equal(fitted.W_dec, d.W_dec)


def test_the_factor_on_the_card_is_that_of_training(tiny: dict[str, Any]):
    x = 7 * torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    told = {
        how: sae.fit(x, "relu", n_latents=9, l1=0.1, steps=2, batch_size=32, input_scale=how)[0].card["input_scale"]
        for how in ("sqrt_d", "none", "whiten")
    }
    assert told["none"] == 1 and told["whiten"] == "whitened"
    assert told["sqrt_d"] == pytest.approx(8**0.5 / float(x.norm(dim=-1).mean()), rel=0.1)


def test_facts_of_a_source_and_finite_scores_are_added(tmp_path: Path):
    sae.save(Relu.tied(torch.eye(2)).with_card(seed=3), tmp_path / "d")
    (tmp_path / "s").mkdir()
    facts = {"model_revision": "abc", "processing": "none", "excluded_token_ids": [0], "splits": {}, "d_in": 2}
    (tmp_path / "s" / "source.json").write_text(json.dumps(facts))
    complete_card(tmp_path / "d", tmp_path / "s", {"l0": 2.0, "mcc": float("nan")})
    card = sae.load(tmp_path / "d").card
    assert card == {"seed": 3, "scores": {"l0": 2.0}, "model_revision": "abc", "processing": "none",
                    "excluded_token_ids": [0]}  # fmt: skip
    complete_card(tmp_path / "d", tmp_path / "nowhere", {})
    assert sae.load(tmp_path / "d").card["model_revision"] == "abc"


def test_a_card_is_shown_as_text_whatever_it_says(tmp_path: Path, call: Call):
    hostile = "[red]x[/red] \x1b[31m\x07[link=file:///]y"
    sae.save(Relu.tied(torch.eye(2)).with_card(source={"model": hostile}), tmp_path)
    code, told, _ = call("show", tmp_path)
    assert code == 0 and "[red]x[/red]" in told and "\x1b" not in told and "\x07" not in told


def test_one_of_several_is_shown_and_converted(tmp_path: Path, call: Call):
    for i in (0, 1):
        sae.save(Relu.tied(torch.eye(2 + i)), tmp_path / "run" / f"trainer_{i}", format="dictionary_learning")
    code, _, warned = call("show", tmp_path / "run")
    assert code == 2 and "choose one of 2 by name or index: trainer_0, trainer_1" in warned and warned.count("\n") == 1
    assert call("convert", f"{tmp_path}/run#trainer_1", tmp_path / "x", "--format", "sparsify")[0] == 0
    assert sae.load(tmp_path / "x").d_in == 3
    assert call("show", f"{tmp_path}/run#trainer_0")[0] == 0


def test_pushing_says_where_it_went(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    given: list[Any] = []

    class Api:
        def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
            given.append((repo, private, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str, delete_patterns: str) -> None:
            given.append({f.name for f in Path(folder_path).iterdir()})
            assert delete_patterns == "saelens/*"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    sae.save(Relu.tied(torch.eye(2)), tmp_path)
    code, told, _ = call("push", tmp_path, "someone/thing", "--licence", "mit")
    assert (code, told) == (0, "pushed: sae.load('hf://someone/thing')\n")
    native = {"README.md", "dictionary.json", "dictionary.safetensors"}
    assert given == [("someone/thing", False, True), native | {"saelens"}]
    assert call("push", tmp_path, "someone/thing", "--no-saelens")[0] == 0 and given[-1] == native
    source = {"model": "gpt2", "hook": "blocks.2.hook_resid_pre"}
    sae.save(Relu.tied(torch.eye(2)).with_card(source=source), tmp_path)
    code, told, _ = call("push", tmp_path, "someone/thing")
    assert code == 0 and told.splitlines()[1:3] == [
        "with SAELens: SAE.from_pretrained('someone/thing', 'saelens')",
        "to list it there, add to its pretrained_saes.yaml:",
    ]
    assert told.endswith("  saes:\n  - id: blocks.2.hook_resid_pre\n    path: saelens\n")
    code, _, warned = call("push", tmp_path / "nowhere", "someone/thing")
    assert code == 2 and warned.count("\n") == 1 and "nowhere" in warned

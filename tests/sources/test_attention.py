"""Attention toys as a source: used like any model, with known features before attention and labels after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.config.config import parse
from sae.activations.disk_source import Activations
from sae.dictionaries.relu import Relu
from sae.metric import Case, gather_evidence
from sae.metrics.downstream import Config as Downstream
from sae.model.token_rows import NOTHING
from sae.registry import MissingFileError, UserError
from sae.sources.attention import Config
from sae.toys.attention.saved import held_out, load_toy
from sae.toys.attention.training import evaluate
from tests.streaming import Killed, bytes_of, kill_after, silent

Z = "blocks.0.attn.hook_z"
ADDITION = {"kind": "addition", "n_digits": 2, "n_train": 600, "n_test": 200}
BASE: dict[str, Any] = {
    "task": ADDITION,
    "model": {"n_heads": 4, "d_head": 2, "d_model": 12},
    "training": {"steps": 30, "batch_size": 32, "lr": 3e-3},
    "hook": Z,
    "n_rows": 300,
    "n_heldout_rows": 120,
}
TASKS: dict[str, dict[str, Any]] = {
    "addition": {},
    "skip_trigram": {
        "task": {"kind": "skip_trigram"},
        "model": {"n_heads": 2, "d_head": 1, "embedding": "one_hot"},
        "positions": "all",
    },
    "recent": {"task": {"kind": "recent"}},
    "repeats": {
        "task": {"kind": "repeats", "vocabulary": 9},
        "model": {"n_layers": 2, "n_heads": 2, "d_head": 5, "d_model": 12},
        "positions": "all",
    },
    "names": {"task": {"kind": "names", "n_names": 4}},
}


def build(directory: Path, **settings: Any) -> Activations:
    config = Config(**BASE | settings)
    config.prepare(directory, silent, "cpu")
    source = config.open(directory, "cpu")
    assert isinstance(source, Activations)
    return source


def columns(source: Activations, split: str) -> dict[str, torch.Tensor]:
    shards = source.shards[split]  # pyright: ignore
    return {name: shards.rows(np.arange(shards.n_rows), name) for name in shards.names}


@pytest.mark.parametrize("name", TASKS)
def test_every_stored_activation_is_the_models_at_the_positions_with_answers(tmp_path: Path, name: str):
    source = build(tmp_path, **TASKS[name])
    toy = load_toy(tmp_path)
    for split in ("train", "choose", "test"):
        kept = columns(source, split)
        tokens = toy.task.batch(0, split, 0, {"train": 300}.get(split, 60))  # pyright: ignore
        row, position = kept["row"].long(), kept["position"].long()
        acts = toy.model.activations(tokens, torch.ones_like(tokens, dtype=torch.bool), Z)
        torch.testing.assert_close(kept["acts"], acts[row, position], rtol=1e-4, atol=1e-5)
        assert torch.equal(kept["token"], tokens[row, position].int())
        expected = toy.task.answers(tokens) != NOTHING
        if source.config.model_dump()["positions"] == "all":
            expected = tokens != toy.task.bos
        stored = sorted(zip(row.tolist(), position.tolist(), strict=True))
        assert stored == [tuple(p) for p in expected.nonzero().tolist()]


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_stored_with_their_activations(tmp_path: Path, name: str):
    source = build(tmp_path, **TASKS[name])
    toy = load_toy(tmp_path)
    halves = source.labelled()
    assert halves is not None and {"model", "labels"} == source.config.provides
    for split, batch in zip(("choose", "test"), halves, strict=True):
        tokens = toy.task.batch(0, split, 0, 60)  # pyright: ignore
        labels = toy.task.labels(tokens)
        at = torch.stack(list(labels.values())).ne(NOTHING).all(0) & source.select(tokens).kept
        acts = toy.model.activations(tokens, torch.ones_like(at), Z)[at]
        torch.testing.assert_close(batch.acts, acts, rtol=1e-4, atol=1e-5)
        assert {n: y.tolist() for n, y in batch.labels.items()} == {n: y[at].tolist() for n, y in labels.items()}


def test_labels_may_be_chosen(tmp_path: Path):
    halves = build(tmp_path, labels=("carry",)).labelled()
    assert halves is not None and [list(half.labels) for half in halves] == [["carry"], ["carry"]]


HOOKS = ["hook_embed", "hook_pos_embed", "blocks.0.hook_in", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_in"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ["addition", "repeats"])
def test_before_attention_tokens_and_positions_are_the_features(tmp_path: Path, hook: str, name: str):
    source = build(tmp_path, **TASKS[name] | {"hook": hook, "positions": "all"})
    truth, batch = source.truth, source.batch(0, 2000)
    assert truth is not None and batch.codes is not None and truth.offset is not None
    torch.testing.assert_close(batch.codes @ truth.directions + truth.offset, batch.acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(truth.directions.norm(dim=1), truth.represented.float())
    every = columns(source, "train")
    torch.testing.assert_close(truth.offset, every["acts"].mean(0), rtol=1e-4, atol=1e-5)
    toy = load_toy(tmp_path)
    sizes = {"token": toy.task.d_vocab, "position": toy.task.n_tokens}
    groups = [g for g in sizes if {"hook_embed": "token", "hook_pos_embed": "position"}.get(hook, g) == g]
    shares = torch.cat([every[g].long().bincount(minlength=sizes[g]) / len(every[g]) for g in groups])
    torch.testing.assert_close(truth.probability, shares)
    active = (batch.codes > 0).sum(1)
    assert int(active.max()) <= len(groups) and {"truth", "codes"} <= source.config.provides
    assert source.labelled() is None


def test_a_dictionary_of_the_true_features_is_scored_as_one(tmp_path: Path):
    config = parse(
        {
            "name": "t",
            "source": {"kind": "attention", **BASE, "hook": "blocks.0.hook_in", "positions": "all"},
            "baselines": {"kinds": ["oracle"]},
        }
    )
    source = config.sources[0]
    source.prepare(tmp_path, silent, "cpu")
    opened = source.open(tmp_path, "cpu")
    oracle = config.baselines[0].fit(opened, 0)
    assert opened.truth is not None
    cosine = torch.nn.functional.cosine_similarity(oracle.W_dec[:, None], opened.truth.directions[None], dim=-1)
    assert bool((cosine.max(0).values[opened.truth.represented] > 0.999).all())


def test_the_loss_under_a_splice_is_that_of_answers(tmp_path: Path):
    source = build(tmp_path, n_heldout_rows=200)
    toy, evidence = load_toy(tmp_path), gather_evidence(source, 600)
    scores = Downstream().score(Case(_identity(8), evidence)).scalars
    assert scores["ce_spliced"] == pytest.approx(scores["ce_clean"], abs=1e-6)
    of_test = evaluate(toy.network, toy.task, toy.task.batch(0, "test", 0, 100))
    assert scores["ce_clean"] == pytest.approx(of_test["loss"], rel=1e-5)
    assert scores["ce_mean"] > scores["ce_clean"]
    assert evaluate(toy.network, toy.task, held_out(toy.task, 0)) == pytest.approx(dict(toy.scores))


def _identity(d: int) -> Relu:
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    return Relu(both.T.contiguous(), both, torch.zeros(2 * d), torch.zeros(d))


def test_a_target_behind_the_hook_makes_a_transcoder(tmp_path: Path):
    source = build(tmp_path, hook="blocks.0.hook_in", target="blocks.0.attn.hook_out", positions="all")
    batch = source.batch(0, 64)
    assert batch.targets is not None and batch.codes is None and "truth" not in source.config.provides
    assert not torch.equal(batch.targets, batch.acts)


def test_bytes_after_an_interruption_are_those_of_an_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae.toys.attention.saved.CHECKPOINT_STEPS", 20)
    settings = BASE | {"training": {"steps": 110, "batch_size": 32}, "shard_tokens": 300}
    config, units = Config(**settings), list[str]()
    config.prepare(tmp_path / "whole", lambda done, total, unit: units.append(unit), "cpu")
    assert units.count("steps") == 3 and units.count("tokens") >= 5
    for stop in range(len(units)):
        if stop in (0, 1, 2, 4):
            with pytest.raises(Killed):
                config.prepare(tmp_path / "killed", kill_after(stop), "cpu")
            with pytest.raises(MissingFileError, match="not complete"):
                config.open(tmp_path / "killed", "cpu")
    config.prepare(tmp_path / "killed", silent, "cpu")
    whole, killed = (bytes_of(tmp_path / name) for name in ("whole", "killed"))
    assert whole == killed and not any("partial" in name for name in whole)


def test_an_interrupted_training_continues_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def kill_at_100(done: int, total: int, unit: str) -> None:
        seen.append(done)
        if done == 100:
            raise Killed

    monkeypatch.setattr("sae.toys.attention.saved.CHECKPOINT_STEPS", 60)
    config, seen = Config(**BASE | {"training": {"steps": 150, "batch_size": 16}}), list[int]()
    with pytest.raises(Killed):
        config.prepare(tmp_path, kill_at_100, "cpu")
    assert (tmp_path / "model.partial.safetensors").is_file() and seen == [50, 100]
    seen.clear()
    with pytest.raises(Killed):
        config.prepare(tmp_path, kill_at_100, "cpu")
    assert seen == [100], "training continued at step 60"
    with pytest.raises(UserError, match="other settings"):
        Config(**BASE).prepare(tmp_path, silent, "cpu")


def test_facts_hold_the_models_scores(tmp_path: Path):
    build(tmp_path)
    facts = json.loads((tmp_path / "source.json").read_text())
    header = json.loads((tmp_path / "model.json").read_text())
    assert facts["model_scores"] == header["scores"] and facts["d_in"] == 8
    assert header["predictors"]["uniform"] == pytest.approx(np.log(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rows": 601}, "n_rows = 601: needs 601 rows in the split 'train', but the task has 600"),
        ({"n_heldout_rows": 202}, "n_heldout_rows = 202: needs 101 rows in the split 'choose', but the task has 100"),
        (
            {"labels": ["carry", "carri"]},
            "labels: 'carri' is not a label of task 'addition'; choose from a, b, sum, carry",
        ),
        ({"task": {"kind": "adition"}}, "'adition' is not a known kind: did you mean 'addition'?"),
        (
            {"task": ADDITION | {"n_train": 9_900}},
            "source.task: n_train + n_test = 10100: there are only 10000 pairs",
        ),
        ({"model": {"n_heads": 1, "d_head": 1}}, "source.model: d_model = None: does not fit embedding"),
    ],
)
def test_mistakes_are_reported_before_any_work(change: dict[str, Any], message: str):
    with pytest.raises(ValueError) as error:
        parse({"name": "t", "source": {"kind": "attention", **BASE, **change}, "baselines": {"kinds": ["pca"]}})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_hook_is_answered_with_real_ones(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'blocks\.0\.hook_reid_post' is not a known hook point of the addition toy"):
        build(tmp_path, hook="blocks.0.hook_reid_post")
    with pytest.raises(ValueError, match=r"'blocks\.0\.hook_mlp_in': it is switched off"):
        build(tmp_path / "mlp", hook="blocks.0.hook_mlp_in")


def test_a_directory_without_a_model_is_one_line(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no trained attention toy is here"):
        load_toy(tmp_path)
    build(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_toy(tmp_path)

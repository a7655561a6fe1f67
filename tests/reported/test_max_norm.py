"""`max_norm` leaves rows of enormous norm out of training, scoring and splices, and counts them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sae
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.activations.disk_source import Activations
from sae.dictionaries.relu import Relu
from sae.numerics.norms import edit_within_norm
from sae.registry import UserError
from sae.source import TensorSource
from sae.sources.tensor import Config as FromFile
from sae.sources.transformer import Config

N, D_IN = 2000, 6
G = torch.Generator().manual_seed(0)
X = torch.randn(N, D_IN, generator=G)
IS_SINK = torch.rand(N, generator=G) < 0.02
X[IS_SINK] *= 1000
HOOK = "blocks.0.hook_resid_pre"


def silent(done: int, total: int, unit: str) -> None: ...


def test_rows_of_a_matrix():
    """Every split loses its sinks and nothing else; the numbers of rows are exact."""
    source, everything = TensorSource(X, {"sink": IS_SINK.long()}, max_norm=10.0), TensorSource(X)
    for split in ("train", "choose", "test"):
        n = source.n_rows[split]
        assert n is not None and n + source.left_out[split] == everything.n_rows[split]
        batch = source.batch(0, n, split)
        kept = everything.batch(0, n + source.left_out[split], split).acts.tolist()
        assert batch.acts.norm(dim=-1).max() < 100 and not batch.labels["sink"].any()
        assert sorted(batch.acts.tolist()) == sorted(row for row in kept if math.hypot(*row) < 100)
    assert sum(source.left_out.values()) == int(IS_SINK.sum()) and everything.norm_limit is None
    assert torch.equal(source.batch(3, 64).acts, TensorSource(X, max_norm=10.0).batch(3, 64).acts)


def test_the_limit_is_a_multiple_of_the_median_of_training_rows():
    source = TensorSource(X, max_norm=7.0)
    rows = torch.from_numpy(TensorSource(X).parts["train"])
    assert source.norm_limit == pytest.approx(7 * float(X[rows].norm(dim=-1).median()))


def test_targets_count_too():
    """A row whose target is a sink is left out of a transcoder's source."""
    plain = X / X.norm(dim=-1, keepdim=True)
    source = TensorSource(plain, targets=X, max_norm=10.0)
    assert sum(source.left_out.values()) == int(IS_SINK.sum())
    assert source.norm_limit == pytest.approx(10)


def test_settings_that_cannot_be(tmp_path: Path):
    with pytest.raises(UserError, match="max_norm = 2: it leaves no row in the split 'choose'"):
        few = torch.ones(10, 2)
        few[TensorSource(few).parts["choose"]] = 100
        TensorSource(few, max_norm=2.0)
    with pytest.raises(ValueError, match=r"max_norm\n.*greater than 1"):
        FromFile.model_validate({"file": tmp_path / "x.npy", "max_norm": 1})
    with pytest.raises(ValueError, match="max_norm = 10: not for a source with a target"):
        Config.model_validate({"model": "m", "text": "t", "hook": HOOK, "target": "h", "max_norm": 10})


def test_no_key_changes_without_it():
    for config in (FromFile.model_validate({"file": "x.npy"}), Config.model_validate(of_text("m", "t"))):
        assert "max_norm" not in config.model_dump() and "max_norm" not in config.model_dump_json()


def test_the_card_of_a_fit():
    (d,) = sae.fit(TensorSource(X, max_norm=10.0), n_latents=8, l1=0.1, steps=3, batch_size=32)
    assert d.card["left_out"]["rows"] == dict(TensorSource(X, max_norm=10.0).left_out)
    assert "left_out" not in sae.fit(X, n_latents=8, l1=0.1, steps=3, batch_size=32)[0].card


def test_a_run_tells_what_was_left_out(tmp_path: Path):
    """The card of every dictionary and the report have the limit and the counts."""
    save_file({"acts": X}, tmp_path / "x.safetensors")
    table = {
        "name": "s", "report": {"best_by": "fvu"}, "score": {"n_rows": 100, "metrics": ["reconstruction"]},
        "source": {"kind": "tensor", "file": str(tmp_path / "x.safetensors"), "max_norm": 10},
        "dictionary": {"kind": "relu", "n_latents": 8, "l1": 0.1}, "train": {"steps": 3, "batch_size": 32},
        "baselines": {"kinds": ["pca"]}, "runtime": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    from pipelines.commands.output import Terminal

    config = parse(table)
    steps, store = plan(config), Store(tmp_path / "runs")
    run(steps, store, execution(config.runtime), Board(Terminal(stderr=True)))
    rows = dict(TensorSource(X, max_norm=10.0).left_out)
    for step in steps:
        if step.stage == "train":
            assert sae.load(store.directory(step)).card["left_out"]["rows"] == rows
    page = (store.directory(steps[-1]) / "report.html").read_text()
    assert "left out of training and scoring: " in page and f"{rows['train']} of train" in page


def of_text(model: Path | str, text: Path | str, **settings: Any) -> dict[str, Any]:
    base = {"model": str(model), "text": str(text), "hook": HOOK, "context": 16, "separator": "\n", "shard_tokens": 64}
    return base | settings


@pytest.fixture(scope="module")
def with_sinks(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in which the token ``w7`` has an enormous embedding, and a text in which it is rare."""
    folder = tmp_path_factory.mktemp("sinks")
    shutil.copytree(tiny_models["llama"], folder / "model")
    weights = load_file(folder / "model" / "model.safetensors")
    weights["model.embed_tokens.weight"][3 + 7] *= 1000
    save_file(weights, folder / "model" / "model.safetensors", {"format": "pt"})
    g = torch.Generator().manual_seed(0)
    words = torch.randint(8, 40, (90, 20), generator=g)
    words[torch.rand(90, 20, generator=g) < 0.06] = 7
    (folder / "t.txt").write_text("\n".join(" ".join(f"w{i}" for i in row) for row in words.tolist()))
    return folder / "model", folder / "t.txt"


def prepared(folder: Path, with_sinks: tuple[Path, Path], **settings: Any) -> Activations:
    config = Config.model_validate(of_text(*with_sinks, **settings))
    config.prepare(folder, silent, "cpu")
    source = config.open(folder, "cpu")
    assert isinstance(source, Activations)
    return source


def test_activations_of_a_model(tmp_path: Path, with_sinks: tuple[Path, Path]):
    """Neither training nor scoring sees a sink; an interrupted preparation ends with the same bytes."""
    source, plain = prepared(tmp_path / "a", with_sinks, max_norm=10.0), prepared(tmp_path / "b", with_sinks)
    for split in ("train", "choose", "test"):
        rows, before = source.shards[split], plain.shards[split]
        index = torch.arange(rows.n_rows).numpy()
        assert rows.rows(index).norm(dim=-1).max() <= source.norm_limit
        assert not (rows.rows(index, "token") == 10).any()
        n_sinks = int((before.rows(torch.arange(before.n_rows).numpy(), "token") == 10).sum())
        assert source.left_out[split] == n_sinks == before.n_rows - rows.n_rows
        assert source.facts["splits"][split]["tokens"] == rows.n_rows == source.n_rows[split]
    assert sum(source.left_out.values()) > 10 and "left_out" not in plain.facts
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    for name in ("source.json", "train-00001.safetensors", "test-00000.safetensors"):
        (tmp_path / "a" / name).unlink()
    prepared(tmp_path / "a", with_sinks, max_norm=10.0)
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == files


def test_a_splice_leaves_them_alone(tmp_path: Path, with_sinks: tuple[Path, Path]):
    """As BOS does, an activation above the limit passes a splice and the scores of a model's loss unchanged."""
    source = prepared(tmp_path / "a", with_sinks, max_norm=10.0)
    site = source.model()
    assert site is not None
    rows = site.text
    is_sink = rows.kept & (rows.tokens == 10)
    assert is_sink.any()
    seen: list[torch.Tensor] = []

    def edit(acts: torch.Tensor) -> torch.Tensor:
        seen.append(acts)
        return acts

    losses, _ = site.losses(rows, edit)
    assert len(torch.cat(seen)) == int((rows.kept & ~is_sink).sum())
    assert torch.allclose(losses, site.model.losses(rows)[0])
    d = Relu.tied(torch.eye(16)).with_card(
        source=json.loads(source.config.model_dump_json()),
        left_out={"norm_limit": source.norm_limit, "rows": {}},
    )
    with sae.splice(site.model, {HOOK: d}, error=False) as spliced:
        site.model.bridge(rows.tokens, attention_mask=rows.attended.long())
    assert torch.equal(spliced.codes[HOOK].read, spliced.kept(HOOK) & (rows.tokens != 10))


def test_an_edit_within_a_norm():
    x = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    assert edit_within_norm(lambda rows: rows * 0, 5.0)(x).tolist() == [[0.0, 0.0], [30.0, 40.0]]

"""Targets of the transformer source: two hook points of one forward pass, always stored in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.activations.shards import Shards, write_shard
from sae.model.hooked import Model
from sae.registry import UserError
from sae.sources.transformer import Activations, Config
from tests.streaming import SPLITS, build, bytes_of, columns, prepare_with_kills, silent, words

HOOK, TARGET = "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return words(tmp_path_factory.mktemp("text") / "text.txt", 200)


@pytest.fixture
def base(tiny_models: Mapping[str, Path], text: Path) -> dict[str, Any]:
    return {"model": str(tiny_models["llama"]), "hook": HOOK, "target": TARGET, "text": str(text), "separator": "|",
            "context": 16, "heldout_share": 0.3, "shard_tokens": 400}  # fmt: skip


def check_pairs(directory: Path, source: Activations, split: str) -> None:
    """Stored activations equal, bit for bit, those in TransformerLens' cache when the row is run alone."""
    kept = columns(source, split)
    corpus = Shards(sorted(directory.glob(f"rows-{split}-*")))
    tokens = corpus.rows(np.arange(corpus.n_rows), "tokens").long()
    model = Model.boot(source.config.model)
    hooks = source.config.hooks
    for i, row in enumerate(tokens):
        ours = kept["row"] == i
        with torch.no_grad():
            _, cache = model.bridge.run_with_cache(row[row >= 0][None], names_filter=list(hooks.values()))
        for column, hook in hooks.items():
            assert torch.equal(kept[column][ours], cache[hook][0, kept["position"][ours].long()])


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("packing", ["packed", "document"])
def test_both_hooks_are_the_models_own_to_the_bit(
    tmp_path: Path, base: dict[str, Any], tiny_models: Mapping[str, Path], model: str, packing: str
):
    settings = base | {"model": str(tiny_models[model]), "packing": packing, "eos": True, "rows_at_once": 1}
    settings["attention"] = "eager"
    check_pairs(tmp_path, build(tmp_path, **settings), "test")


def test_both_hooks_of_a_trained_model_to_the_bit(tmp_path: Path, shared_data: Path):
    model, text = shared_data / "models" / "stories260k", shared_data / "text" / "tinystories_valid.txt"
    if not model.is_dir() or not text.is_file():
        pytest.skip(f"no model at {model} or no text at {text}")
    source = build(tmp_path, model=str(model), text=str(text), hook="blocks.2.mlp.hook_in",
                   target="blocks.2.mlp.hook_out", n_tokens=2000, n_heldout_tokens=600, rows_at_once=1,
                   attention="eager")  # fmt: skip
    for split in SPLITS:
        check_pairs(tmp_path, source, split)
    batch, booted = source.batch(0, 500), Model.boot(str(model))
    assert batch.targets is not None
    with torch.no_grad():
        torch.testing.assert_close(booted.bridge.original_model.model.layers[2].mlp(batch.acts), batch.targets)


def test_a_target_changes_nothing_of_the_activations(tmp_path: Path, base: dict[str, Any]):
    with_target = build(tmp_path / "a", **base)
    without = build(tmp_path / "b", **{k: v for k, v in base.items() if k != "target"})
    assert with_target.has_targets and not without.has_targets
    for split in SPLITS:
        one, other = columns(with_target, split), columns(without, split)
        assert one.keys() - other.keys() == {"targets"}
        assert all(torch.equal(one[name], column) for name, column in other.items())
    assert torch.equal(with_target.batch(3, 50).acts, without.batch(3, 50).acts)
    assert without.batch(0, 5).targets is None


def test_a_source_without_a_target_is_written_as_before_there_were_any(base: dict[str, Any]):
    plain = Config(**{k: v for k, v in base.items() if k != "target"})
    for mode in ("json", "python"):
        assert "target" not in plain.model_dump(mode=mode) and Config(**plain.model_dump(mode=mode)) == plain
        assert Config(**base).model_dump(mode=mode)["target"] == TARGET
    assert "rows_at_once" not in plain.model_dump(exclude={"rows_at_once"})


def test_every_row_is_read_beside_its_own_target(tmp_path: Path, base: dict[str, Any]):
    source = build(tmp_path, **base)
    at = 0.0
    for file in sorted(tmp_path.glob("train-*")):
        n = Shards([file]).n_rows
        acts = at + torch.arange(n * 16.0).view(n, 16)
        write_shard(file, {"acts": acts, "targets": 3 * acts + 1})
        at += n * 16
    source = source.config.open(tmp_path, "cpu")
    n = source.n_rows["train"]
    assert n is not None and at == n * 16 and len(list(tmp_path.glob("train-*"))) > 2
    batches = [source.batch(step, 50) for step in range(-(-n // 50))]
    assert all(b.targets is not None and torch.equal(b.targets, 3 * b.acts + 1) for b in batches)
    first = torch.cat([b.acts[:, 0] for b in batches])[:n]
    assert torch.equal(first.sort().values, 16 * torch.arange(float(n))) and not torch.equal(first, first.sort().values)


def test_bytes_after_an_interruption_are_those_of_an_uninterrupted_run(tmp_path: Path, base: dict[str, Any]):
    config = Config(**base)
    assert prepare_with_kills(config, tmp_path) >= 3
    damaged = tmp_path / "killed" / "train-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    config.prepare(tmp_path / "killed", silent, "cpu")
    whole, killed = (bytes_of(tmp_path / name) for name in ("whole", "killed"))
    assert whole == killed
    with pytest.raises(UserError, match="other settings"):
        build(tmp_path / "killed", **base | {"target": "blocks.1.hook_resid_post"})


def test_a_smaller_stored_type_is_that_of_both(tmp_path: Path, base: dict[str, Any]):
    exact = build(tmp_path / "a", **base).batch(0, 40)
    half = build(tmp_path / "b", **base | {"store_dtype": "bfloat16"}).batch(0, 40)
    assert exact.targets is not None and half.targets is not None
    assert torch.equal(half.targets, exact.targets.bfloat16().float()) and half.targets.dtype == torch.float32


def test_labelled_rows_have_targets_too(tmp_path: Path, base: dict[str, Any]):
    file = tmp_path / "words.conllu"
    words = "1\tw1\t_\tNOUN\t_\t_\t0\t_\t_\t_\n2\tw2\t_\tVERB\t_\t_\t0\t_\t_\t_\n"
    file.write_text("".join(f"# newdoc id = {i}\n# text = w1 w2\n{words}\n" for i in range(12)))
    source = build(tmp_path / "s", **base | {"labels": file})
    assert source.config.provides == {"model", "labels", "targets"}
    mlp = Model.boot(base["model"]).bridge.original_model.model.layers[1].mlp
    for batch in source.labelled() or ():
        assert batch.targets is not None
        with torch.no_grad():
            torch.testing.assert_close(mlp(batch.acts), batch.targets)


def test_the_site_reads_at_the_hook_and_writes_at_the_target(tmp_path: Path, base: dict[str, Any]):
    source = build(tmp_path, **base)
    site = source.model()
    assert site is not None and (site.hook, site.target) == (HOOK, TARGET)
    assert Config(**base | {"target": "blocks.1.hook_resid_mid"}).provides == {"targets"}
    assert Config(**base | {"hook": "blocks.1.hook_resid_mid"}).provides == {"targets", "model"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target": "blocks.1.mlp.hook_post"},
            "source.target: hook .* has width 16 and target 'blocks.1.mlp.hook_post' has width 24",
        ),
        ({"target": "blocks.0.mlp.hook_out"}, "source.target: .* comes before hook 'blocks.1.mlp.hook_in'"),
        ({"target": "blocks.1.mlp.hook_ou"}, "source.target: .* did you mean 'blocks.1.mlp.hook_out'"),
        ({"hook": "blocks.1.mlp.hook_inn"}, "^'blocks.1.mlp.hook_inn' is not a known hook"),
    ],
)
def test_what_cannot_be_a_target_is_refused_in_one_line(
    tmp_path: Path, base: dict[str, Any], change: dict[str, str], message: str
):
    with pytest.raises(UserError, match=message) as error:
        build(tmp_path, **base | change)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.safetensors"))


def test_the_hook_itself_is_no_target(base: dict[str, Any]):
    with pytest.raises(ValueError, match=r"it is the same as hook; leave it out for an autoencoder"):
        Config(**base | {"target": HOOK})


def test_targets_that_are_not_finite_are_named(tmp_path: Path, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def broken(model: Model, tokens: Tensor, attended: Tensor, hooks: list[str], fused: bool) -> list[Tensor]:
        return [torch.full((*tokens.shape, 16), value) for value in (1.0, float("inf"))]

    monkeypatch.setattr(Model, "activations_at", broken)
    with pytest.raises(UserError, match=r"source\.target = 'blocks\.1\.mlp\.hook_out': .* have NaN or infinite"):
        build(tmp_path, **base)

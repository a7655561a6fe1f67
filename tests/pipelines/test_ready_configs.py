"""Every shipped config can be planned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.config.config import read_config, read_table
from pipelines.plan import plan

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.toml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_a_ready_config_plans(
    file: Path, tmp_path: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    text = tmp_path / "text.txt"
    text.write_text("w1 w2.")
    overrides = []
    if "local" in file.stem:
        model = shutil.copytree(tiny_models["llama"], tmp_path / "model")
        settings = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 5}))  # as the hooks need
        overrides += [f"source.model={model}", f"source.text={text}"]
    if file.parent.name == "language":  # its model is trained
        overrides.append(f"source.text={text}")
    if file.stem == "wide-1l":  # the model that is widened
        narrow = {**read_table(file)["source"]["model"], "mlp_ratio": 4}
        (tmp_path / "training.json").write_text(json.dumps({"settings": {"model": narrow}}))
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_text("")
        overrides.append(f"source.widening.of={tmp_path}")
    if file.stem == "probes-local":
        labels = tmp_path / "labels.jsonl"
        labels.write_text('{"text": "w1", "labels": {"y": 1}}\n')
        overrides.append(f"source.labels={labels}")
    if file.stem == "sae-probes-local":  # its tables are in a package that may not be installed
        monkeypatch.setattr("sae.probing.sources.package_tables", lambda names: (text,) * len(names))
    config = read_config(file, overrides)
    assert config.name == file.stem
    stages = {step.stage for step in plan(config)}
    assert {"train", "score", "report"} < stages and stages & {"generate", "stream"}


TIERS = [(file, tier) for file in CONFIGS for tier in read_table(file).get("tiers", {})]


@pytest.mark.parametrize(("file", "tier"), TIERS, ids=lambda part: part.stem if isinstance(part, Path) else part)
def test_every_tier_of_a_suite_plans_and_is_smaller(file: Path, tier: str):
    small, whole = plan(read_config(file, (), tier), tier), plan(read_config(file))
    assert small[-1].stage == "bench"
    assert sum(step.stage == "score" for step in small) < sum(step.stage == "score" for step in whole)


def test_the_local_config_says_what_is_missing():
    with pytest.raises(ValueError, match=r"source.text is missing"):
        read_config(next(f for f in CONFIGS if f.stem == "tinystories-local"))

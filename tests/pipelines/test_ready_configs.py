"""Every config that the project ships can be planned; what each reaches stands in its comment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import read
from pipelines.plan import plan

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.toml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_a_ready_config_plans(file: Path, tmp_path: Path, tiny_models: dict[str, Path]):
    text = tmp_path / "text.txt"
    text.write_text("w1 w2.")
    given = [f"source.model={tiny_models['llama']}", f"source.text={text}"] if "local" in file.stem else []
    if file.stem == "probes-local":
        labels = tmp_path / "labels.jsonl"
        labels.write_text('{"text": "w1", "labels": {"y": 1}}\n')
        given.append(f"source.labels={labels}")
    config = read(file, given)
    assert config.name == file.stem
    stages = {step.stage for step in plan(config)}
    assert {"train", "score", "report"} < stages and stages & {"generate", "stream"}


def test_the_local_config_says_what_is_missing():
    with pytest.raises(ValueError, match=r"source.model is missing"):
        read(next(f for f in CONFIGS if f.stem == "tinystories-local"))

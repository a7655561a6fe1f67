"""Tables of the package sae-probes, here a stand-in of two tables in its layout, with a list of their targets."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config.config import parse
from pipelines.plan import plan
from sae.activations.labels import read_labelled
from sae.probing import TaskSettings, examples_of
from sae.probing import package_tables as module
from sae.probing.package_tables import package_tables
from sae.registry import UserError
from tests.streaming import build, words

HOOK = "blocks.0.hook_resid_post"


def write_zst(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.CompressedOutputStream(str(file), "zstd") as stream:
        stream.write(text.encode())


def table(targets: list[str], seed: int) -> str:
    draw = np.random.default_rng(seed)
    rows = [f"{' '.join(f'w{i}' for i in draw.integers(0, 40, 4))},18,{t}" for t in targets]
    return "\n".join(["prompt,prompt_len,target", *rows]) + "\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose code cannot be imported, since none of it should be."""
    data = tmp_path / "site" / "sae_probes" / "data"
    write_zst(data / "cleaned_data" / "1_two.csv.zst", table(["no", "yes"] * 60, 1))
    write_zst(data / "cleaned_data" / "2_three kinds.csv.zst", table(["a", "b", "c"] * 40, 2))
    write_zst(data / "cleaned_data" / "3_year.csv.zst", table([f"{i}.5" for i in range(9)], 3))
    listed = "Dataset save name,Data type\ncleaned_data/1_two.csv,Binary Classification\n"
    write_zst(data / "probing_datasets_MASTER.csv.zst", listed + "cleaned_data/3_year.csv,Continuous Data\n,\n")
    (tmp_path / "site" / "sae_probes" / "__init__.py").write_text("raise ImportError('needs xgboost')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    return data


def config_of(model: Path, tmp_path: Path, tasks: Mapping[str, Any]) -> dict[str, Any]:
    (tmp_path / "text.txt").write_text("w1 w2.")
    source = {"kind": "transformer", "model": str(model), "text": str(tmp_path / "text.txt"), "hook": HOOK}
    return {"name": "x", "source": source, "baselines": {"kinds": ["pca"]}, "probe": {"tasks": dict(tasks)}}


def test_tables_are_found_by_name_and_read_with_one_label_for_each_task(package: Path):
    two, three = package_tables(["1_two", "2_three kinds"])
    assert two.parent == package / "cleaned_data"
    assert [dict(text.spans[0][1]) for text in read_labelled(two)[:2]] == [{"1_two": 0}, {"1_two": 1}]
    assert set(read_labelled(three)[0].spans[0][1]) == {f"2_three kinds_{c}" for c in "abc"}
    assert package_tables([]) == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [("1_too", "'1_too' is not a known table of sae-probes: did you mean '1_two'"), ("3_year", "'3_year' is a number")],
)
def test_tables_that_cannot_be_probed(package: Path, name: str, message: str):
    with pytest.raises(UserError, match=message):
        package_tables([name])


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="sae-probes is not installed; pip install --no-deps sae-probes") as caught:
        package_tables(["1_two"])
    assert "\n" not in str(caught.value)


def test_a_damaged_table(package: Path):
    file = package / "cleaned_data" / "1_two.csv.zst"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"1_two.csv.zst: not a whole .zst file"):
        read_labelled(file)


def test_examples_of_two_tables(package: Path, tiny_models: Mapping[str, Path], tmp_path: Path):
    given: dict[str, Any] = {"model": str(tiny_models["llama"]), "hook": HOOK, "separator": "|", "context": 16}
    source = build(tmp_path / "source", **given, text=str(words(tmp_path / "text.txt", 200)), heldout_share=0.3)
    settings = TaskSettings(sae_probes=("1_two", "2_three kinds"), min_count=5)
    parts = examples_of(source, settings)
    names = {"1_two", *(f"2_three kinds_{c}" for c in "abc")}
    for part in ("train", "test"):
        assert set(parts[part].labels) == names
        known = {name: int((label >= 0).sum()) for name, label in parts[part].labels.items()}
        assert known["1_two"] + known["2_three kinds_a"] == len(parts[part])
    total = sum(len(parts[part]) for part in parts)
    assert 230 < total <= 240  # a prompt may end in a token that the tokenizer of the tests joins to the next


def test_steps_depend_on_the_tables_and_not_on_where_they_are(
    package: Path, tiny_models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = parse(config_of(tiny_models["llama"], tmp_path, {"sae_probes": ["1_two"]}))
    [examples] = [s for s in plan(config) if s.stage == "examples"]
    assert list(examples.config["files"]) == ["sae_probes.1_two"] and str(tmp_path) not in str(examples.config)
    write_zst(package / "cleaned_data" / "1_two.csv.zst", table(["no", "yes"] * 59, 1))
    [other] = [s for s in plan(config) if s.stage == "examples"]
    assert other.key != examples.key
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="not installed"):
        plan(config)


def test_only_a_source_with_a_model_reads_tables(tiny_models: Mapping[str, Path], tmp_path: Path):
    table = config_of(tiny_models["llama"], tmp_path, {"sae_probes": ["1_two"]})
    table["source"] = {"kind": "independent", "n_features": 8, "d_in": 4, "probability": 0.2}
    with pytest.raises(UserError, match=r"probe.tasks.sae_probes: only a source of kind 'transformer'"):
        plan(parse(table))


def test_settings_without_tables_are_written_as_before():
    assert "sae_probes" not in TaskSettings().model_dump(mode="json")

"""Files outside of a run are read as they were when it was planned: reported were scores under the key of others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.stages import examples, generate, score, stream, train
from pipelines.steps import known_hashes
from pipelines.steps.external_files import content_hash, open_checked
from pipelines.steps.progress import Board
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.registry import UserError
from tests.streaming import words

STAGES = {"generate": generate, "train": train, "score": score, "stream": stream, "examples": examples}


def tensor(file: Path, seed: int) -> Path:
    np.save(file, np.random.default_rng(seed).standard_normal((300, 8)).astype(np.float32))
    return file


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    """A run on a file of activations."""
    return {
        "name": "tiny",
        "source": {"kind": "tensor", "file": str(tensor(tmp_path / "acts.npy", 0))},
        "baselines": {"kinds": ["pca"]},
        "score": {"n_rows": 20, "metrics": ["reconstruction"]},
        "runtime": {"device": "cpu", "threads": 1},
    }


def work(table: Mapping[str, Any], out: Path) -> list[Step]:
    steps = plan(parse(table))[:-1]
    run(steps, Store(out), execution(parse(table).runtime), Board(Console(file=StringIO())))
    return steps


def around(stage: str, when: str, change: Callable[[], object]) -> pytest.MonkeyPatch:
    """Makes a change before or after what a stage does to its first job."""
    patch, honest = pytest.MonkeyPatch(), STAGES[stage].run

    def changed(*arguments: Any) -> Any:
        if when == "before":
            change()
        for i, job in enumerate(honest(*arguments)):
            if when == "after" and i == 0:
                change()
            yield job

    patch.setattr(STAGES[stage], "run", changed)
    return patch


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", ["generate", "train", "score"])
def test_a_file_changed_during_a_run(table: dict[str, Any], tmp_path: Path, stage: str, when: str):
    """A file of activations changed between two stages gave other scores under the key of the first content."""
    file, out = tmp_path / "acts.npy", tmp_path / "out"
    before = file.read_bytes()
    patch = around(stage, when, lambda: tensor(file, 1))
    with pytest.raises(UserError) as caught:
        work(table, out)
    patch.undo()
    assert str(caught.value) == f"source.file = {str(file)!r}: changed since this run was planned; run again"
    assert not list(out.glob(f"{stage}-*")) and not list((out / ".scratch").iterdir())
    of_new = {s.name for s in work(table, out)}
    file.write_bytes(before)
    of_old = {s.name for s in work(table, out)}
    assert not of_new & of_old


def test_a_file_removed_during_a_run(table: dict[str, Any], tmp_path: Path):
    patch = around("train", "before", (tmp_path / "acts.npy").unlink)
    with pytest.raises(UserError, match=r"source\.file = .*acts\.npy'.*"):
        work(table, tmp_path / "out")
    patch.undo()


def test_a_source_opened_after_its_run(table: dict[str, Any], tmp_path: Path):
    """Questions and pages of latents read the file once more, after the steps were verified."""
    step = work(table, tmp_path / "out")[0]
    assert open_checked(step, tmp_path / "out" / step.name, "cpu").d_in == 8
    tensor(tmp_path / "acts.npy", 1)
    with pytest.raises(UserError, match="changed since this run was planned; run again"):
        open_checked(step, tmp_path / "out" / step.name, "cpu")


@pytest.mark.parametrize("content", ["text", "labels", "model", "new file of the model"])
def test_texts_labels_and_models(tmp_path: Path, tiny_models: dict[str, Path], content: str):
    """A text or a file of labels that was changed after the run was planned was read as if it were the first."""
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_models["llama"].iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    text, labels = words(tmp_path / "text.txt", 60), tmp_path / "labels.jsonl"
    labels.write_text("".join(f'{{"text": "w{i} w{i % 7}", "labels": {{"odd": {i % 2}}}}}\n' for i in range(40)))
    table: dict[str, Any] = {
        "name": "tiny",
        "source": {"kind": "transformer", "model": str(model), "hook": "blocks.0.hook_resid_post", "text": str(text),
                   "separator": "|", "context": 8, "heldout_share": 0.3},
        "baselines": {"kinds": ["pca"]},
        "probe": {"tasks": {"labels": [str(labels)], "min_count": 2}},
        "runtime": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    stage, changed = {
        "text": ("stream", text),
        "labels": ("examples", labels),
        "model": ("examples", model / "config.json"),
        "new file of the model": ("stream", model / "new.json"),
    }[content]
    steps = [s for s in plan(parse(table)) if s.stage in ("stream", "examples")]
    execution_, board = execution(parse(table).runtime), Board(Console(file=StringIO()))

    def change() -> None:
        with changed.open("a") as f:
            f.write("\n")

    patch = around(stage, "before", change)
    with pytest.raises(UserError, match=f"{changed.name}.*: changed since this run was planned; run again"):
        run(steps, Store(tmp_path / "out"), execution_, board)
    patch.undo()
    assert not list((tmp_path / "out").glob(f"{stage}-*"))


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path):
    """A file is read once per process as long as it does not change; one changed just now is always read."""
    file = tmp_path / "large.npy"
    tensor(file, 0)
    first = content_hash(file, "x")
    os.utime(file, (1e9, 1e9))
    assert content_hash(file, "x") == first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_hashes, "sha256", None)
        assert content_hash(file, "x") == first
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert content_hash(file, "x") != first
    file.write_bytes(content)
    os.utime(file, (1e9, 1e9))  # size and time of change are those of before
    assert content_hash(file, "x") == first

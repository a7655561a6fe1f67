"""The training log of a run that was stopped is continued only as it was written: its losses are drawn in reports."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.stages import train
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from tests.interruptions import interrupted_at


def work(table: dict[str, Any], out: Path) -> str:
    """Trains; returns what was printed."""
    console = Console(record=True, file=StringIO(), width=1000)
    run(plan(parse(table))[:2], Store(out), execution(parse(table).runtime), Board(console))
    return console.export_text()


@pytest.mark.parametrize("harm", ["none", "a number", "after the checkpoint"])
def test_a_changed_number_in_a_log(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str):
    """A flipped bit that made one digit of a loss another was kept, and drawn as the loss of that step."""
    tiny["dictionary"]["l1"], tiny["train"]["seeds"], tiny["baselines"]["kinds"] = 0.1, 0, []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "write_checkpoint", interrupted_at(4, vars(train)["write_checkpoint"]))
        work(tiny, tmp_path)
    (log,) = tmp_path.glob("train-*.partial/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]  # the checkpoint is of step 30
    loss = lines[3]["loss"]
    if harm != "none":
        lines[1 if harm == "a number" else 3]["loss"] += 1
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    printed = work(tiny, tmp_path)
    assert (f"{log}: damaged, its hash differs from that in the checkpoint" in printed) == (harm == "a number")
    (log,) = tmp_path.glob("train-*/log.jsonl")
    finished = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [] if harm == "a number" else lines[:3]
    assert finished[: len(kept)] == kept and [line["step"] for line in finished[len(kept) :]] == [40, 50, 60]
    assert finished[len(kept)]["loss"] == loss


def test_a_checkpoint_of_an_earlier_version_has_no_hashes_of_logs(tmp_path: Path):
    file, notes = tmp_path / "log.jsonl", list[str]()
    line = json.dumps({"step": 10, "samples": 320}).encode() + b"\n"
    file.write_bytes(line)
    train.Log(file, 10, train.Timing(), notes.append)
    assert file.read_bytes() == line and not notes

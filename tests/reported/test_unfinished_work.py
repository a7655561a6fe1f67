"""Work that a killed run left is continued only where it is undamaged: reported were flipped bits in results."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run, standings
from pipelines.stages import train
from pipelines.steps import checksums
from pipelines.steps.progress import Board, Status, read_status
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.activations import harvest
from tests.interruptions import interrupted_at
from tests.streaming import words

Given = dict[str, Any]
Results = Callable[[Path], dict[str, str]]


def work(table: Given, out: Path, first: int | None = None) -> str:
    """Runs the first steps of a config; returns what it printed."""
    console = Console(record=True, file=StringIO(), width=1000)
    run(plan(parse(table))[:first], Store(out), execution(parse(table).runtime), Board(console))
    return console.export_text()


def flip(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.fixture
def one(tiny: Given) -> Given:
    tiny["dictionary"]["l1"], tiny["train"]["seeds"], tiny["baselines"]["kinds"] = 0.1, 0, []
    return tiny


@pytest.fixture
def stopped(one: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of a training run that was stopped after step 30 of 60; returns the scratch folder."""
    monkeypatch.setattr(train, "write_checkpoint", interrupted_at(4, vars(train)["write_checkpoint"]))
    with pytest.raises(KeyboardInterrupt):
        work(one, tmp_path / "stopped")
    monkeypatch.undo()
    (scratch,) = (tmp_path / "stopped" / ".scratch").glob("train-*")
    return scratch


def steps_of_log(out: Path) -> list[int]:
    (log,) = out.glob("train-*/log.jsonl")
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("harm", ["none", "tensor", "no checksum"])
def test_a_damaged_checkpoint_is_not_continued(one: Given, stopped: Path, tmp_path: Path, results: Results, harm: str):
    """A flipped bit in checkpoint.safetensors was trained on and its dictionary stored as right."""
    file = stopped / "checkpoint.safetensors"
    if harm == "tensor":
        flip(file)
    elif harm == "no checksum":
        file.with_name(file.name + ".sha256").unlink()
    printed = work(one, tmp_path / "stopped", -1)
    assert (f"{file}: damaged or without a checksum" in printed) == (harm != "none")
    work(one, tmp_path / "whole", -1)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")
    assert steps_of_log(tmp_path / "stopped") == [10, 20, 30, 40, 50, 60]


def test_a_checkpoint_of_a_run_killed_between_checksum_and_file_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "checkpoint"
    for content in (b"one", b"two"):
        checksums.write_checked(file, content)
        assert checksums.is_intact(file)
    for harmed in (file, file.with_name("checkpoint.sha256")):
        for at in (0, -1):
            flip(harmed, at)
            assert checksums.is_intact(file) == (harmed != file and at == -1)  # there it is that of the content before
            flip(harmed, at)
    beside = file.with_name("checkpoint.sha256")
    beside.write_bytes(b"\xe6" + beside.read_bytes())  # ended the next run with a UnicodeDecodeError
    checksums.write_checked(file, b"two")
    assert checksums.is_intact(file)
    monkeypatch.setattr(checksums, "write_atomically", interrupted_at(2, checksums.write_atomically))
    with pytest.raises(KeyboardInterrupt):
        checksums.write_checked(file, b"three")
    assert file.read_bytes() == b"two" and checksums.is_intact(file)


LINES = [json.dumps({"step": step, "samples": 32 * step}).encode() + b"\n" for step in (10, 20, 30, 40)]


@pytest.mark.parametrize(
    "line", [b"\xff" + LINES[1], b"{" + LINES[1], b"7\n", b"{}\n", b"[]\n", b'{"step": "20"}\n', LINES[0], b"", b"\0\n"]
)
def test_a_log_is_kept_up_to_its_first_damaged_line(tmp_path: Path, line: bytes):
    """One unreadable line ended every later run, with no file named."""
    file, notes = tmp_path / "log.jsonl", list[str]()
    file.write_bytes(b"".join([LINES[0], line, *LINES[2:]]))
    log = train.Log(file, 30, train.Timing(2.0, 960), notes.append)
    log.write({"step": 40, "samples": 1280})
    kept = [LINES[0]] if line else [LINES[0], LINES[2]]
    assert file.read_bytes().splitlines(keepends=True)[:-1] == kept and len(notes) == (line != b"")
    assert json.loads(file.read_bytes().splitlines()[-1])["seconds"] >= 2.0


@pytest.mark.parametrize("harm", ["byte", "emptied"])
def test_a_damaged_log_ends_no_run(one: Given, stopped: Path, tmp_path: Path, results: Results, harm: str):
    """A flipped byte in log.jsonl, or a log emptied by a kill while it was rewritten, stopped every later run."""
    (log,) = (tmp_path / "stopped").glob("train-*.partial/log.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4  # the checkpoint is of step 30
    log.write_bytes(b"".join([lines[0], b"\xff" + lines[1], *lines[2:]] if harm == "byte" else []))
    printed = work(one, tmp_path / "stopped", -1)
    assert f"{log}: lines up to step 30 are missing or damaged" in printed
    kept = [] if harm == "emptied" else [10]
    assert steps_of_log(tmp_path / "stopped") == [*kept, 40, 50, 60]
    (cost,) = (tmp_path / "stopped").glob("train-*/cost.json")
    (finished,) = (tmp_path / "stopped").glob("train-*/log.jsonl")
    last = json.loads(finished.read_text().splitlines()[-1])
    assert json.loads(cost.read_text())["seconds"] == last["seconds"] >= json.loads(lines[2])["seconds"]
    work(one, tmp_path / "whole", -1)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_a_log_lost_after_the_last_step(one: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With an empty log beside the checkpoint of the last step, every rerun ended in an IndexError."""
    monkeypatch.setattr(train, "_save", interrupted_at(1, vars(train)["_save"]))
    with pytest.raises(KeyboardInterrupt):
        work(one, tmp_path)
    monkeypatch.undo()
    (log,) = tmp_path.glob("train-*.partial/log.jsonl")
    seconds = json.loads(log.read_text().splitlines()[-1])["seconds"]
    log.write_bytes(b"")
    work(one, tmp_path, -1)
    (cost,) = tmp_path.glob("train-*/cost.json")
    assert json.loads(cost.read_text())["seconds"] == seconds > 0


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"title": 1, "steps": 3}', b"null"])
def test_a_damaged_status_is_none(one: Given, tmp_path: Path, content: bytes):
    """A damaged status.json ended every run and every `sae status` with a traceback."""
    steps = plan(parse(one))[:-1]
    Store(tmp_path).create()
    for step in steps:
        folder = tmp_path / ".scratch" / (step.group or step.name)
        folder.mkdir()
        (folder / "status.json").write_bytes(content)
        assert read_status(folder) is None
    assert {s.state for s in standings(steps, Store(tmp_path))} == {"waiting"}
    if content == b"{":
        work(one, tmp_path, -1)
        assert {s.state for s in standings(steps, Store(tmp_path))} == {"done"}
    Status("t", ["a"], pid=3, figures={"loss": 0.5}).write(tmp_path / "status.json")
    assert read_status(tmp_path) == Status("t", ["a"], pid=3, figures={"loss": 0.5})


@pytest.fixture
def stream(one: Given, tmp_path: Path, tiny_models: dict[str, Path]) -> Given:
    source = {"kind": "transformer", "model": str(tiny_models["llama"]), "hook": "blocks.0.hook_resid_post",
              "text": str(words(tmp_path / "text.txt", 60)), "separator": "|", "context": 8, "heldout_share": 0.3,
              "shard_tokens": 64, "rows_at_once": 8}  # fmt: skip
    return {**one, "source": source, "score": {"n_rows": 50, "metrics": ["reconstruction"]}}


def stop_harvest(table: Given, out: Path, nth: int) -> Path:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(harvest, "write_shard", interrupted_at(nth, harvest.write_shard))
        work(table, out, 1)
    (partial,) = out.glob("stream-*.partial")
    return partial


@pytest.mark.parametrize("name", ["train-00001.safetensors", "rows-train-00000.safetensors", "none"])
def test_a_damaged_shard_is_harvested_again(stream: Given, tmp_path: Path, results: Results, name: str):
    """A flipped bit in a shard of a stream that was stopped was stored as an activation of the model."""
    partial = stop_harvest(stream, tmp_path / "stopped", 6)
    whole = {f.name: f.stat().st_mtime_ns for f in partial.glob("train-*")}
    assert len(whole) == 5
    if name != "none":
        flip(partial / name, -20)
    printed = work(stream, tmp_path / "stopped", 1)
    assert (f"{partial / name}" in printed) == (name != "none")
    work(stream, tmp_path / "whole", 1)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")
    (finished,) = (tmp_path / "stopped").glob("stream-*")
    assert not list(finished.glob(".*"))
    again = [n for n, t in whole.items() if (finished / n).stat().st_mtime_ns != t]
    assert again == [n for n in whole if n == name]


def test_a_complete_source_is_checked_before_it_is_finished(
    stream: Given, tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
):
    """A shard damaged between the end of the harvest and the manifest was stored with the hash of the damage."""
    work(stream, tmp_path / "whole", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "commit", interrupted_at(1, Store.commit))
        work(stream, tmp_path / "stopped", 1)
    (partial,) = (tmp_path / "stopped").glob("stream-*.partial")
    flip(partial / "test-00000.safetensors")
    step: Step = plan(parse(stream))[0]
    with pytest.raises(ValueError, match=r"test-00000.*changed on disk after it was written; run again"):
        Store(tmp_path / "stopped").commit(step, "cpu", 0.0)
    work(stream, tmp_path / "stopped", 1)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_work_without_checksums_is_made_again(stream: Given, tmp_path: Path, results: Results):
    partial = stop_harvest(stream, tmp_path / "stopped", 4)
    (partial / checksums.CHECKSUMS).write_text('{"../text.txt": [1, 2, "x"], "train-00000.safetensors": 3}')
    flip(partial / "train-00000.safetensors")
    assert "more: damaged or without a checksum" in work(stream, tmp_path / "stopped", 1)
    assert (tmp_path / "text.txt").exists()
    work(stream, tmp_path / "whole", 1)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")

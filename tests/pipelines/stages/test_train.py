"""The train stage alone: log, checkpoint and sinks."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.stages import generate, train
from pipelines.steps.step import Job, Runtime, Step
from pipelines.steps.store import Store

Reports = list[tuple[int, int, str, dict[str, float]]]


@pytest.fixture
def jobs(tiny: dict[str, Any], tmp_path: Path) -> list[Job]:
    """The four members of a stack, with their source prepared."""
    return prepared_jobs(tiny, tmp_path)


@pytest.fixture
def two_widths(tiny: dict[str, Any], tmp_path: Path) -> list[Job]:
    """Two stacks of four members on one source."""
    return prepared_jobs({**tiny, "dictionary": {**tiny["dictionary"], "n_latents": [16, 32]}}, tmp_path)


def prepared_jobs(table: dict[str, Any], out: Path) -> list[Job]:
    """Prepares the source of a config; returns the jobs of its dictionaries."""
    store = Store(out)
    steps = plan(parse(table))
    for job in generate.run([job_of(steps[0], store)], out, Runtime(), lambda *_, **__: None):
        store.commit(job.step, "cpu", 0.0)
    return [job_of(s, store) for s in steps if s.stage == "train" and "dictionary" in s.config]


def job_of(step: Step, store: Store) -> Job:
    store.partial(step).mkdir()
    return Job(step, {name: store.directory(s) for name, s in step.inputs.items()}, store.partial(step))


def work(jobs: list[Job], scratch: Path, **runtime: Any) -> Reports:
    """Runs the stage; returns every report of progress as (done, total, unit, figures)."""
    reports: Reports = []

    def progress(done: int, total: int, unit: str, **figures: float) -> None:
        reports.append((done, total, unit, figures))

    finished = list(train.run(jobs, scratch, Runtime(**runtime), progress))
    assert finished == jobs
    return reports


def test_the_log_has_a_line_for_every_record_and_the_board_shows_the_mean(jobs: list[Job], tmp_path: Path):
    reports = work(jobs, tmp_path)
    assert [t[:3] for t in reports] == [(step, 60, "steps") for step in range(10, 61, 10)]
    logs = [[json.loads(line) for line in (job.out / "log.jsonl").open()] for job in jobs]
    for log in logs:
        assert [line["samples"] for line in log] == [320 * i for i in range(1, 7)]
        assert {"loss", "mse", "penalty", "l0", "dead", "lr", "coefficient", "seconds", "samples_per_s"} <= set(log[0])
    assert [log[-1]["coefficient"] for log in logs] == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert reports[0][3]["loss"] == pytest.approx(sum(log[0]["loss"] for log in logs) / 4)


def test_a_log_continues_after_its_checkpoint(tmp_path: Path):
    file = tmp_path / "log.jsonl"
    lines = [{"step": s, "samples": 32 * s, "seconds": s / 10} for s in (10, 20, 30)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "sam')
    notes: list[str] = []
    log = train.Log(file, 20, train.Timing(2.0, 640), notes.append)
    log.write({"step": 30, "samples": 960})
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert written[:2] == lines[:2] and [line["step"] for line in written] == [10, 20, 30]
    assert written[2]["seconds"] >= 2.0 and written[2]["samples_per_s"] > 0
    train.Log(file, 0, train.Timing(), notes.append)
    assert file.read_text() == "" and not notes


def test_checkpoints_are_written_by_time_and_at_the_end(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps: list[int] = []
    monkeypatch.setattr(train, "write_checkpoint", lambda _, states, *__: steps.append(states[0].step))
    work(jobs, tmp_path, checkpoint_seconds=1e9)
    assert steps == [60]
    steps.clear()
    for job in jobs:
        (job.out / "log.jsonl").unlink()
    work(jobs, tmp_path, checkpoint_seconds=0)
    assert steps == [10, 20, 30, 40, 50, 60]


def test_an_unreadable_checkpoint_is_a_fresh_start(jobs: list[Job], tmp_path: Path):
    work(jobs[:1], tmp_path)
    first = (jobs[0].out / "dictionary" / "dictionary.safetensors").read_bytes()
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    assert [t[0] for t in work(jobs[:1], tmp_path)] == [10, 20, 30, 40, 50, 60]
    assert (jobs[0].out / "dictionary" / "dictionary.safetensors").read_bytes() == first


def test_sinks_receive_every_member(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logged: list[tuple[dict[str, float], int]] = []
    ended: list[str] = []

    class Run:
        def log(self, figures: dict[str, float], step: int) -> None:
            logged.append((figures, step))

        def finish(self) -> None:
            ended.append("ended")

    started: list[dict[str, Any]] = []
    module = types.ModuleType("trackio")
    module.init = lambda **settings: (started.append(settings), Run())[1]
    monkeypatch.setitem(sys.modules, "trackio", module)
    work(jobs, tmp_path, sinks=("trackio",))
    assert started[0]["name"] == jobs[0].step.group and ended == ["ended"]
    assert [step for _, step in logged] == [10, 20, 30, 40, 50, 60]
    assert {f"{job.step.title}/loss" for job in jobs} <= set(logged[0][0])


def results(jobs: list[Job]) -> list[bytes]:
    return [(job.out / "dictionary" / "dictionary.safetensors").read_bytes() for job in jobs]


def test_stacks_trained_together_equal_stacks_trained_alone(two_widths: list[Job], tmp_path: Path):
    reports = work(two_widths, tmp_path)
    assert len(two_widths) == 8 and [t[0] for t in reports] == list(range(10, 61, 10))  # one pass for both widths
    together = results(two_widths)
    (tmp_path / "checkpoint.safetensors").unlink()
    work(two_widths[4:], tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    work(two_widths[:4], tmp_path)
    assert results(two_widths) == together


def test_what_does_not_fit_into_memory_is_trained_in_several_passes(
    two_widths: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work(two_widths, tmp_path)
    together = results(two_widths)
    (tmp_path / "checkpoint.safetensors").unlink()
    d_in = train.open_step(two_widths[0].step.inputs["source"], two_widths[0].inputs["source"], "cpu").d_in
    monkeypatch.setattr(train, "memory_of", lambda device: 2 * 24 * d_in * (3 * 16))  # three of the smaller ones
    cut = [
        [[j.step.config["dictionary"]["n_latents"] for j in s] for s in t] for t in train._passes(two_widths, Runtime())
    ]
    assert cut == [[[16, 16, 16]], [[16], [32]], [[32]], [[32]], [[32]]]
    work(two_widths, tmp_path)
    assert results(two_widths) == together


def test_a_pass_does_not_continue_from_the_checkpoint_of_another(
    two_widths: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that is continued in smaller passes writes the checkpoint of each in the place of the one it began with."""
    work(two_widths, tmp_path)
    together, again = results(two_widths), tmp_path / "again"
    again.mkdir()

    def stop_at(done: int, *_: Any, **__: Any) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(train.run(two_widths, again, Runtime(checkpoint_seconds=0), stop_at))
    d_in = train.open_step(two_widths[0].step.inputs["source"], two_widths[0].inputs["source"], "cpu").d_in
    monkeypatch.setattr(train, "memory_of", lambda device: 2 * 24 * d_in * (3 * 16))
    work(two_widths, again)
    assert results(two_widths) == together


@pytest.mark.parametrize("input_scale", ["none", "whiten"])
def test_an_interrupted_run_of_several_stacks_continues(tiny: dict[str, Any], input_scale: str, tmp_path: Path):
    """Whitened ones share the matrix that whitens."""
    widths = {**tiny["dictionary"], "n_latents": [16, 32]}
    two_widths = prepared_jobs(
        {**tiny, "dictionary": widths, "train": {**tiny["train"], "input_scale": input_scale}}, tmp_path
    )
    work(two_widths, tmp_path)
    together = results(two_widths)
    (tmp_path / "again").mkdir()

    def stop_at(done: int, *_: Any, **__: Any) -> None:
        if done == 40:
            raise KeyboardInterrupt

    running = train.run(two_widths, tmp_path / "again", Runtime(checkpoint_seconds=0), stop_at)
    with pytest.raises(KeyboardInterrupt):
        list(running)
    reports = work(two_widths, tmp_path / "again")
    assert [t[0] for t in reports] == [40, 50, 60]
    assert results(two_widths) == together

"""Several workers: what they make is what one run makes, and whatever happens to them is seen, said and made good."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from rich.console import Console

import sae
from pipelines.config.config import parse, read_config
from pipelines.config.shipped import find_config
from pipelines.engines import local
from pipelines.engines.choice import Workers
from pipelines.engines.drive import drive
from pipelines.engines.engine import WorkerEngine
from pipelines.engines.local import LocalEngine
from pipelines.engines.process import RESTARTS
from pipelines.engines.ray import work_on_group
from pipelines.engines.resources import needs_gpu
from pipelines.engines.shared_run import PLAN, SharedRun, without
from pipelines.engines.slurm import JOBS, SlurmEngine, parameters_of, read_slurm
from pipelines.engines.worker import work
from pipelines.engines.worker_state import WorkerState, file_system_time, read_states
from pipelines.plan import STAGES, plan
from pipelines.runner import execution, run
from pipelines.stages import train
from pipelines.steps.progress import Board
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.metric import Case, MetricConfig, Scores
from sae.registry import UserError, discovery

Call = Callable[..., tuple[int, str, str]]
Results = Callable[[Path], dict[str, str]]
Given = dict[str, Any]


class InThisProcess(WorkerEngine):
    """Does the work of each worker in turn, in the process of the test."""

    name = "local"

    def start(self, run: SharedRun, n: int) -> None:
        for i in range(n):
            work(run.folder, str(i + 1), "local")

    def tend(self, is_pending: bool) -> int:
        return 0

    def stop(self) -> str:
        return ""


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "engine", lambda self: InThisProcess())


def shared(table: Given, out: Path) -> SharedRun:
    config = parse(table)
    return SharedRun.create("tiny", plan(config), config.runtime, out)


def test_two_workers_make_what_one_run_makes(call: Call, tiny_file: Path, tmp_path: Path, results: Results):
    """By processes, but without the report, whose libraries take longer than the work."""
    by_two, by_one, warned = tmp_path / "by two", tmp_path / "by one", StringIO()
    settings = read_config(tiny_file)
    steps = plan(settings)[:-1]
    run(steps, Store(by_one), execution(settings.runtime), Board(Console(quiet=True)))
    by_workers = SharedRun.create("tiny", steps, settings.runtime, by_two)
    assert drive(LocalEngine(), by_workers, 2, Console(file=warned, width=300))
    assert results(by_two) == results(by_one) and len(results(by_one)) > 16
    [folder] = (by_two / ".workers").iterdir()
    assert f"2 workers (local); logs: {folder}" in warned.getvalue()
    code, told, _ = call("status", tiny_file, "--out", by_two)
    for name in "12":
        assert f"worker {name} (local, host " in told and f"log: {folder / name}.log" in told
        assert (folder / f"{name}.log").is_file()
    assert code == 0 and told.count(": done, ") == 2


def test_a_worker_does_what_was_planned(tiny: Given, tmp_path: Path):
    planned = shared(tiny, tmp_path)
    read = SharedRun.read(planned.folder)
    assert [s.name for s in read.steps] == [s.name for s in planned.steps] and read.table == planned.table
    assert [(s.group, s.title, s.config) for s in read.steps] == [(s.group, s.title, s.config) for s in planned.steps]
    demo = read_config(find_config(Path("demo")))
    again = SharedRun.read(SharedRun.create("demo", plan(demo), demo.runtime, tmp_path).folder)
    assert {s.name for s in again.steps} == {s.name for s in plan(demo)}


def test_a_plan_of_another_version_or_out_of_sight_is_refused(tiny: Given, tmp_path: Path):
    folder = shared(tiny, tmp_path).folder
    text = (folder / PLAN).read_text()
    (folder / PLAN).write_text(text.replace(f'"version": {train.VERSION}', '"version": 99'))
    with pytest.raises(UserError, match="another version of sae"):
        SharedRun.read(folder)
    (folder / PLAN).write_text(text.replace(f'"sae": "{sae.__version__}"', '"sae": "0.0.1"'))
    with pytest.raises(UserError, match="install the same version"):
        SharedRun.read(folder)
    with pytest.raises(UserError, match="storage that all machines see"):
        SharedRun.read(tmp_path / "elsewhere")


@pytest.mark.usefixtures("in_this_process")
def test_a_step_that_fails_stops_only_what_needs_it(
    call: Call, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train, "_fit", lambda *_: 1 / 0)  # of the baselines
    code, told, warned = call("run", tiny_file, "--out", tmp_path, "--workers", 2)
    assert code == 1 and "report:" not in told
    last = warned.splitlines()[-1]
    assert last.startswith("sae: failed: train: random") and "ZeroDivisionError: division by zero" in last
    assert "failure-3.log)" in last and "bug" not in last
    _, told, _ = call("status", tiny_file, "--out", tmp_path)
    assert "train     4 done" in told and "score     4 done, 3 waiting" in told
    assert ": failed 3 of its steps: ZeroDivisionError" in told


@pytest.mark.usefixtures("in_this_process")
def test_a_mistake_keeps_its_line(call: Call, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise UserError("source: too hot; cool it")

    monkeypatch.setattr(train, "_fit", refuse)
    code, _, warned = call("run", tiny_file, "--out", tmp_path, "--workers", 2)
    assert code == 2 and "source: too hot; cool it and 2 more (log: " in warned.splitlines()[-1]


def test_a_worker_that_dies_is_started_again_while_there_is_work(
    tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[tuple[str, int]] = []

    def start(folder: Path, name: str, threads: int, more: dict[str, str]) -> subprocess.Popen[bytes]:
        started.append((name, threads))
        return subprocess.Popen(["sleep", "60"])

    def wait_and_tend(is_pending: bool) -> int:
        for process in engine._processes.values():
            if process.args == ["sleep", "60"] and process.pid in killed:
                process.wait()
        return engine.tend(is_pending)

    monkeypatch.setattr(local, "start_process", start)
    tiny["runtime"]["threads"] = 3
    engine, killed = LocalEngine(), set[int]()
    engine.start(shared(tiny, tmp_path), 2)
    assert started == [("1", 3), ("2", 3)] and engine.tend(True) == 2
    for _ in range(RESTARTS):
        victim = engine._processes["1"]
        victim.kill()
        killed.add(victim.pid)
        assert wait_and_tend(True) == 2 and engine.lost() == []
    engine._processes["1"].kill()
    killed.add(engine._processes["1"].pid)
    assert wait_and_tend(True) == 1 and [name for name, _ in started] == ["1", "2", "1", "1", "1"]
    [line] = engine.lost()
    assert "worker 1 died 4 times, last by SIGKILL" in line
    engine._processes["2"].kill()
    killed.add(engine._processes["2"].pid)
    assert wait_and_tend(is_pending=False) == 0 and len(started) == 5
    engine.stop()


def test_what_a_worker_does_is_seen_also_after_its_death(tiny: Given, tmp_path: Path):
    of = shared(tiny, tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    WorkerState("1", "local", "1.log", activity="working", title="train: relu", group="g", pid=gone.pid).write(
        of.folder
    )
    WorkerState("10", "slurm", "10.log", job="7_9", host="far").write(of.folder)
    WorkerState("2", "local", "2.log", activity="waiting").write(of.folder)
    first, second, far = read_states(of.folder)
    now = file_system_time(of.folder)
    assert [s.is_alive(of.folder, now) for s in (first, second, far)] == [False, True, True]
    assert not far.is_alive(of.folder, now + 60)
    assert "died" in first.line(of.store, False) and "train: relu" in first.line(of.store, False)
    assert "worker 10 (slurm, job 7_9, host far, process " in far.line(of.store, True)


def test_steps_left_out_take_along_what_needs_them():
    a, b = Step("generate", 1, {"a": 1}), Step("generate", 1, {"b": 1})
    c = Step("train", 1, {}, {"source": a})
    d, e = Step("score", 1, {}, {"dictionary": c}), Step("score", 1, {}, {"source": b})
    assert without([a, b, c, d, e], {a.name}) == [b, e] and without([a, b, c, d, e], {c.name}) == [a, b, e]


@pytest.fixture
def registered_here() -> Iterator[None]:
    class HereConfig(MetricConfig):
        """A kind of this process."""

        kind: Literal["here"] = "here"

        def score(self, case: Case) -> Scores:
            return Scores({})

    sae.register(HereConfig)
    yield
    del discovery._REGISTERED["metrics"]["here"]


@pytest.mark.usefixtures("registered_here")
def test_a_kind_that_no_worker_can_find_is_refused(tiny: Given, tmp_path: Path):
    tiny["score"]["metrics"] = ["here"]
    with pytest.raises(UserError, match="here: this kind exists only in this process"):
        sae.run(tiny, out=tmp_path, workers=2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--workers", "2", "--on", "slrum"], "--on: 'slrum' is not a known engine: did you mean 'slurm'?"),
        (["--workers", "2", "--slurm", "time=8h"], "--slurm: is for --on slurm"),
        (["--workers", "2", "--address", "auto"], "--address: is for --on ray"),
        (["--on", "slurm", "--slurm", "time"], "'time' is not name=value"),
        (["--on", "slurm", "--slurm", "partition=gpu"], "say how long a job may run"),
        (["--on", "slurm", "--slurm", "time=soon"], "--slurm time=soon: is not a time"),
        (["--on", "slurm", "--slurm", "time=8h,gpus=all"], "--slurm gpus=all: give a whole number"),
        (["--on", "slurm", "--slurm", "time=8h,time=9h"], "time is given twice"),
        (["--workers", "2", "--profile"], "--profile: times the work of one process"),
        (["--set", "runtime.workers=0"], "runtime.workers = 0"),
    ],
)
def test_mistakes_in_options_are_one_line(call: Call, tiny_file: Path, options: list[str], problem: str):
    code, _, warned = call("run", tiny_file, *options)
    assert code == 2 and problem in warned and warned.count("\n") == 1


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_that_is_not_installed(
    call: Call, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    more = ["--slurm", "time=8h"] if engine == "slurm" else []
    code, _, warned = call("run", tiny_file, "--out", tmp_path, "--on", engine, *more)
    assert code == 2 and f"pip install {package}" in warned and warned.count("\n") == 1


def test_a_task_says_that_it_does_not_see_the_folder(tmp_path: Path):
    [failure] = work_on_group(str(tmp_path / "elsewhere"), "1", "train-0")
    assert "must be on storage that all nodes see: choose it with --out" in failure["error"] and failure["is_mistake"]


def test_an_address_at_which_nothing_answers(
    call: Call, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ray = ModuleType("ray")
    vars(ray)["is_initialized"] = lambda: False
    monkeypatch.setitem(sys.modules, "ray", ray)
    options = ["--on", "ray", "--workers", 2, "--address", "127.0.0.1:9"]
    code, _, warned = call("run", tiny_file, "--out", tmp_path, *options)
    assert code == 2 and "--address 127.0.0.1:9: no Ray cluster answers (Connection refused)" in warned


def test_options_of_slurm():
    found = parameters_of(read_slurm("partition=gpu,gpus=a100:2,cpus=8,mem=64GB,time=8h,nodelist=a[1,3-5]"))
    assert found["timeout_min"] == 480 and found["cpus_per_task"] == 8
    assert found["slurm_additional_parameters"] == {
        "requeue": True,
        "partition": "gpu",
        "gpus-per-node": "a100:2",
        "mem": "64GB",
        "nodelist": "a[1,3-5]",
    }
    for text, minutes in {"90min": 90, "2d": 2880, "1.5h": 90, "1-12:00:00": 2160, "8:00:00": 480, "30:00": 30}.items():
        assert parameters_of({"time": text})["timeout_min"] == minutes, text


def test_the_same_command_waits_for_the_jobs_of_the_one_before(
    tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    queue = tmp_path / "bin" / "squeue"
    queue.parent.mkdir()
    queue.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(queue.parent), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))
    before = shared(tiny, tmp_path / "out")
    (before.folder / JOBS).write_text('["71"]')
    for answer, is_there in (("echo 71_0; echo 71_1", True), ("true", False)):
        queue.write_text(f"#!/bin/sh\n[ $5 = 71 ] && {answer}\n")
        engine = SlurmEngine({"time": "1h"})
        found = engine.rejoin(before.steps, tmp_path / "out")
        assert (found is not None and found.folder == before.folder) == is_there
    queue.write_text("#!/bin/sh\necho 71_0; echo 71_1\n")
    engine = SlurmEngine({"time": "1h"})
    assert engine.rejoin(before.steps, tmp_path / "out") is not None
    engine.start(before, 2)  # submits nothing
    assert engine.tend(is_pending=True) == 2 and "scancel 71" in engine.stop()
    assert engine.rejoin([Step("generate", 1, {})], tmp_path / "out") is None


def test_what_needs_a_gpu():
    toy, text = Step("generate", 1, {}), Step("stream", 1, {})
    needs = {stage: needs_gpu(Step(stage, 1, {}, {"source": toy})) for stage in STAGES}
    assert {stage for stage, need in needs.items() if need} == {"model", "stream", "train", "refine", "encode"}
    assert needs_gpu(Step("score", 1, {}, {"source": text, "dictionary": Step("train", 1, {})}))
    assert not needs_gpu(Step("train", 1, {"method": {}}, {"source": toy}))
    assert not needs_gpu(Step("report", 1, {}, {"source.0": text}))

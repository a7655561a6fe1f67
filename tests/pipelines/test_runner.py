"""Runs: finished steps are kept, killed runs continue, damaged files are named, several runs share the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pipelines import plan as planning
from pipelines.config.config import parse
from pipelines.config.toml_tables import override
from pipelines.plan import plan
from pipelines.runner import execution, group_of, run, standings
from pipelines.stages import train
from pipelines.steps.log_sinks import check_sinks
from pipelines.steps.manifest import read_manifest
from pipelines.steps.progress import Board, Status, duration, read_status
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.registry import UserError
from tests.interruptions import interrupted_at

Given = dict[str, Any]
Results = Callable[[Path], dict[str, str]]
CHECKOUT = Path(__file__).parents[2]


def steps_of(table: Mapping[str, Any], *assignments: str) -> list[Step]:
    """The steps without the report, which is tested elsewhere."""
    return plan(parse(override(table, assignments)))[:-1]


def work(table: Mapping[str, Any], out: Path, *assignments: str) -> list[Step]:
    steps = steps_of(table, *assignments)
    run(steps, Store(out), execution(parse(table).runtime), Board(Console(quiet=True)))
    return steps


def changed_times(out: Path) -> dict[str, int]:
    return {f.name: f.stat().st_mtime_ns for f in out.glob("*-*")}


def test_a_run_leaves_complete_steps_and_nothing_else(tiny: Given, tmp_path: Path):
    steps = work(tiny, tmp_path)
    assert {f.name for f in tmp_path.glob("*")} == {s.name for s in steps} | {".locks", ".scratch"}
    assert not list((tmp_path / ".scratch").iterdir())
    for step in steps:
        manifest = read_manifest(tmp_path / step.name)
        assert manifest["key"] == step.key and manifest["config"] == json.loads(json.dumps(step.config))
        assert set(manifest["versions"]) == {"python", "torch", "numpy", "sae"}
    trained = next(s for s in steps if "dictionary" in s.config)
    assert set(read_manifest(tmp_path / trained.name)["files"]) == {
        "cost.json",
        "log.jsonl",
        "dictionary/dictionary.json",
        "dictionary/dictionary.safetensors",
    }


def test_running_again_does_nothing(tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work(tiny, tmp_path)
    before = changed_times(tmp_path)
    monkeypatch.setattr(planning.train, "run", None)
    monkeypatch.setattr(planning.score, "run", None)
    work(tiny, tmp_path)
    assert changed_times(tmp_path) == before


def test_one_changed_penalty_retrains_its_members_alone(tiny: Given, tmp_path: Path):
    work(tiny, tmp_path)
    before = changed_times(tmp_path)
    steps = work(tiny, tmp_path, "dictionary.l1=[0.1, 0.7]")
    new = [s for s in steps if s.name not in before]
    assert sorted(s.stage for s in new) == ["score", "score", "train", "train"]
    assert all(s.config["dictionary"]["l1"] == 0.7 for s in new if s.stage == "train")
    assert {name: t for name, t in changed_times(tmp_path).items() if name in before} == before


def test_results_do_not_depend_on_what_else_is_trained(tiny: Given, tmp_path: Path, results: Results):
    together, alone = tmp_path / "together", tmp_path / "alone"
    work(tiny, together)
    work(tiny, alone, "dictionary.l1=0.5", "train.seeds=1", "baselines.kinds=[]")
    of_all, of_one = results(together), results(alone)
    assert of_one and of_one.items() <= of_all.items()


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("pattern", ["train-*/dictionary/dictionary.safetensors", "generate-*/source.safetensors"])
def test_a_damaged_file_is_named(tiny: Given, tmp_path: Path, harm: str, pattern: str):
    tiny["dictionary"]["l1"], tiny["baselines"]["kinds"], tiny["train"]["seeds"] = 0.1, [], 0
    steps = work(tiny, tmp_path)
    (file,) = tmp_path.glob(pattern)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if harm == "delete":
        file.unlink()
    else:
        file.write_bytes(content if harm == "flip" else content[:-5])
    with pytest.raises(UserError) as caught:
        work(tiny, tmp_path)
    assert str(file) in str(caught.value) and "delete" in str(caught.value) and "\n" not in str(caught.value)
    states = {s.step.name: s.state for s in standings(steps, Store(tmp_path))}
    assert [name for name, state in states.items() if state == "damaged"] == [file.relative_to(tmp_path).parts[0]]


def test_a_damaged_manifest_is_named(tiny: Given, tmp_path: Path):
    work(tiny, tmp_path)
    manifest = next(tmp_path.glob("score-*")) / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(UserError, match=r"score-\w+/manifest\.json: missing or damaged; delete"):
        work(tiny, tmp_path)


def test_an_error_leaves_what_was_done(tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: Any) -> Iterator[Any]:
        raise ValueError("the disk is on fire")
        yield

    monkeypatch.setattr(planning.score, "run", fails)
    with pytest.raises(ValueError, match="on fire"):
        work(tiny, tmp_path)
    assert len(list(tmp_path.glob("train-*"))) == 7 and list(tmp_path.glob("score-*.partial"))
    monkeypatch.undo()
    work(tiny, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


DRIVER = """
import json, os, signal, sys
from pathlib import Path
from rich.console import Console
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.steps.progress import Board
from pipelines import runner
from pipelines.steps import checksums
from pipelines.steps.store import Store
from pipelines.stages import train

table, out, moments = json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
places = {
    "commit": (Store, "commit"),
    "log": (train.Log, "write"),
    "checkpoint": (train, "write_checkpoint"),
    "checkpoint file": (checksums, "write_atomically"),
    "dictionary": (train, "save"),
    "rename": (Path, "rename"),
    "tidy": (runner.shutil, "rmtree"),
}
calls = 0

def killer(function, nth):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

def work():
    config = parse(table)
    runner.run(plan(config)[:-1], Store(out), runner.execution(config.runtime), Board(Console(quiet=True)))

for moment, nth in moments:  # a process each, forked before anything was computed
    if (child := os.fork()) == 0:
        holder, name = places[moment]
        setattr(holder, name, killer(getattr(holder, name), nth))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        sys.exit(f"{moment} {nth} was never reached")
work()
"""


def driver(table: Given, out: Path, *moments: tuple[str, int]) -> list[str]:
    """A program that is killed at each of the moments in turn, before the nth call of something, and then finishes."""
    return [sys.executable, "-c", DRIVER, json.dumps(table), str(out), json.dumps(moments)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the driver forks")
def test_a_run_killed_at_any_moment_continues_to_the_same_bytes(tiny: Given, tmp_path: Path, results: Results):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    moments = [
        ("commit", 1),  # the source is ready, but its step is not finished
        ("log", 10),  # in the middle of training, the log ahead of the checkpoint
        ("checkpoint", 2),
        ("checkpoint file", 3),  # before a checkpoint's checksum is written
        ("checkpoint file", 4),  # between the checksum and the checkpoint
        ("dictionary", 3),  # two members are saved, two are not
        ("rename", 2),  # a member is complete except for its name
        ("tidy", 1),  # all members are done, the scratch folder is still there
        ("rename", 9),  # among the scores
    ]
    subprocess.run(driver(tiny, killed, *moments), cwd=CHECKOUT, check=True, timeout=120)
    work(tiny, whole)
    assert results(killed) == results(whole)
    assert not list(killed.glob("*.partial")) and not list((killed / ".scratch").iterdir())
    for log in killed.glob("train-*/log.jsonl"):
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [10, 20, 30, 40, 50, 60]


def test_a_sweep_changed_while_interrupted_continues_the_members_kept(tiny: Given, tmp_path: Path, results: Results):
    changed, whole = tmp_path / "changed", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_checkpoint", interrupted_at(4, train.write_checkpoint))
        work(tiny, changed)
    (scratch,) = (changed / ".scratch").glob("train-*")
    assert (scratch / "checkpoint.safetensors").exists()
    started = {log.parent.stem: log.read_text().splitlines()[:3] for log in changed.glob("train-*.partial/log.jsonl")}
    other = override(tiny, ["dictionary.l1=[0.5, 0.9]"])  # two members of the checkpoint and two new ones
    work(other, changed)
    work(other, whole)
    assert results(changed).items() >= results(whole).items()
    logs = {log.parent.name: log.read_text().splitlines() for log in changed.glob("train-*[!l]/log.jsonl")}
    continued = [name for name, lines in logs.items() if name in started and lines[:3] == started[name]]
    assert len(logs) == 4 and len(continued) == 2 and all(len(lines) == 6 for lines in logs.values())


def test_work_locked_by_another_run_is_waited_for(tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, console = Store(tmp_path), Console(record=True, file=StringIO(), width=200)
    store.create()
    steps = steps_of(tiny)
    group = group_of(next(s for s in steps if "dictionary" in s.config))

    class EnoughWaiting(Exception):
        pass

    def sleep(_: float) -> None:
        raise EnoughWaiting

    monkeypatch.setattr("pipelines.runner.time.sleep", sleep)
    with store.claim(group) as free, pytest.raises(EnoughWaiting):
        assert free
        store.scratch(group).mkdir()
        Status("train", [s.name for s in steps if s.group == group], pid=4242, done=1, total=3).write(
            store.scratch(group) / "status.json"
        )
        run(steps, store, execution(parse(tiny).runtime), Board(console))
    assert "waiting for another run" in (text := console.export_text()) and "process 4242" in text
    done = {s.name for s in steps if store.done(s)}
    assert {s.stage for s in steps if s.name in done} == {"generate", "train", "score"}  # all that do not depend on it
    assert all(s.group != group for s in steps if s.name in done)


def test_standings_distinguish_running_from_stopped(tiny: Given, tmp_path: Path):
    store, steps = Store(tmp_path), steps_of(tiny)
    assert {s.state for s in standings(steps, store)} == {"waiting"} and not list(tmp_path.iterdir())
    store.create()
    group = group_of(next(s for s in steps if "dictionary" in s.config))
    members = [s.name for s in steps if group_of(s) == group]
    store.scratch(group).mkdir()
    Status("t", members, done=20, total=60, unit="steps", rate=10.0, seconds_left=4.0).write(
        store.scratch(group) / "status.json"
    )
    with store.claim(group):
        assert [s.step.name for s in standings(steps, store) if s.state == "running"] == members
    stopped = [s for s in standings(steps, store) if s.state == "stopped"]
    assert [s.step.name for s in stopped] == members
    assert stopped[0].status is not None and stopped[0].status.line() == "20/60 steps, 10/s, 4 s left"


def test_a_board_prints_lines_and_writes_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("pipelines.steps.progress.time.monotonic", lambda: float(next(clock)))
    console = Console(record=True, file=StringIO(), width=200)
    with Board(console).work("train: x", ["train-1"], tmp_path) as progress:
        for done in (100, 200, 300):
            progress(done, 1000, "steps", loss=0.5)
    status = read_status(tmp_path)
    assert status is not None and (status.done, status.total, status.figures) == (300, 1000, {"loss": 0.5})
    assert status.rate == 10.0 and status.seconds_left == 70.0
    assert "train: x: 200/1000 steps, 10/s, 1 min 20 s left, loss 0.5" in console.export_text()


def test_durations():
    assert [duration(s) for s in (0.2, 59.4, 65, 7800)] == ["0 s", "59 s", "1 min 05 s", "2 h 10 min"]


def test_a_machine_without_the_device_or_the_sink_says_so(tiny: Given, monkeypatch: pytest.MonkeyPatch):
    for device in ("gpu9", "cuda:99"):
        with pytest.raises(UserError, match=f"runtime.device = '{device}'"):
            execution(parse(override(tiny, [f"runtime.device={device}"])).runtime)
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"runtime\.sinks = .*'trackio' is not installed"):
        check_sinks(["trackio"])


def test_a_folder_that_cannot_be_written(tiny: Given, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with --out"):
        work(tiny, tmp_path / "file" / "runs")


def test_a_source_that_yields_infinities_is_named(tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sae.source import Batch
    from sae.sources.independent import IndependentSource

    honest = IndependentSource.batch

    def broken(self: IndependentSource, step: int, size: int, split: Any = "train") -> Batch:
        batch = honest(self, step, size, split)
        if split == "test":
            batch.acts[3, 2] = float("nan")
        return batch

    monkeypatch.setattr(IndependentSource, "batch", broken)
    with pytest.raises(UserError, match=r"generate-\w+: 1 of 200 activations hold NaN"):
        work(tiny, tmp_path)


def test_dictionaries_of_steps_load_with_their_card(tiny: Given, tmp_path: Path):
    import sae

    steps = work(tiny, tmp_path)
    for step in (s for s in steps if s.stage == "train"):
        d = sae.load(tmp_path / step.name)
        assert d.card["source"]["kind"] == "independent" and d.card["seed"] == step.config["seed"]
        assert d.encode(torch.zeros(2, 8)).shape == (2, 16)

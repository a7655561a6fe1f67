"""SIGTERM, and steps that fail on one worker of several."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines import plan as planning
from pipelines import runner
from pipelines.config.config import parse
from pipelines.config.toml_tables import override
from pipelines.plan import plan
from pipelines.stages import train
from pipelines.steps.failures import FAILURES, Failure, Failures, Patience
from pipelines.steps.lease import Lease
from pipelines.steps.progress import Board
from pipelines.steps.stopping import Stopped, ask_to_stop, asked_to_stop, stoppable
from pipelines.steps.store import Store
from sae.registry import UserError
from sae.sources import independent
from tests.pipelines.test_runner import work

Given = dict[str, Any]
Results = Callable[[Path], dict[str, str]]
ASSIGNMENTS = ["baselines.kinds=[]", "train.seeds=0", "runtime.checkpoint_seconds=1000"]
SLOW = pytest.mark.slow
PATIENCE = Patience("run 1", pause_seconds=0.0)


@pytest.fixture
def small(tiny: Given) -> Given:
    return override(tiny, ASSIGNMENTS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def same(small: Given, whole: Path, results: Results) -> Callable[[Path], bool]:
    """Whether a folder has the results of an undisturbed run."""
    work(small, whole)
    return lambda out: results(out) == results(whole)


def run(table: Given, out: Path, patience: Patience | None = None) -> str:
    """Does all steps but the report; returns what was printed."""
    console = Console(file=StringIO(), width=1000)
    try:
        steps = plan(parse(table))[:-1]
        runner.run(steps, Store(out), runner.execution(parse(table).runtime), Board(console), patience)
    finally:
        run.told = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    return told()


def told() -> str:
    return run.told  # pyright: ignore[reportFunctionMemberAccess]


def calling(function: Callable[..., Any], nth: int, before: Callable[[], None]) -> Callable[..., Any]:
    """The function, before whose `nth` call something happens."""
    calls = 0

    def call(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            before()
        return function(*arguments, **settings)

    return call


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_training_that_is_stopped_goes_on_to_the_same_bytes(
    small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Callable[[Path], bool]
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stop:
        patch.setattr(train.Log, "write", calling(train.Log.write, 5, terminate))  # of two members: at step 30
        run(small, out)
    assert stop.value.code == 143
    assert told() == "stopped by SIGTERM; the next run continues at step 40\n"
    assert not list((out / ".locks").iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and asked_to_stop() == ""
    with monkeypatch.context() as patch:
        steps: list[int] = []
        patch.setattr(train.Log, "write", lambda _, record: steps.append(record["step"]))
        patch.setattr(train, "_save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(small, out)
    assert sorted(set(steps)) == [50, 60]
    run(small, out)
    assert same(out)


def test_other_stages_are_left_at_their_next_progress(
    small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Callable[[Path], bool]
):
    out, score = tmp_path / "out", planning.score.run
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(independent.Config, "prepare", calling(independent.Config.prepare, 1, terminate))
        run(small, out)
    assert told().startswith("stopped by SIGTERM; the next run continues with generate: ")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(planning.score, "run", calling(score, 1, terminate))
        run(small, out)
    assert told().startswith("stopped by SIGTERM; the next run continues with score: ")
    assert not list((out / ".locks").iterdir())
    run(small, out)
    assert same(out)


def test_a_second_signal_ends_the_process_and_a_child_is_no_run():
    with stoppable():
        terminate()
        assert asked_to_stop() == "SIGTERM" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert asked_to_stop() == ""
    if hasattr(os, "fork"):
        with stoppable():
            if not (child := os.fork()):
                terminate()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            assert asked_to_stop() == ""


def test_a_program_keeps_its_own_handler(small: Given, tmp_path: Path):
    """An engine with a handler of its own asks the run itself."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with stoppable():
            terminate()
        assert seen == [signal.SIGTERM] and asked_to_stop() == ""
        ask_to_stop("SIGUSR2")
        with pytest.raises(Stopped):
            run(small, tmp_path)
        assert told().startswith("stopped by SIGUSR2; ")
    finally:
        ask_to_stop("")
        signal.signal(signal.SIGTERM, before)


def test_the_command_ends_with_143(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
):
    monkeypatch.setattr(train.Log, "write", calling(train.Log.write, 5, terminate))
    code, printed, error = call("run", tiny_file, "--out", tmp_path / "out")
    assert code == 143 and printed == ""
    assert error.endswith("stopped by SIGTERM; the next run continues at step 30\n")


@pytest.mark.parametrize("moment", ["training", pytest.param("commit", marks=SLOW), pytest.param("error", marks=SLOW)])
def test_a_run_whose_claim_is_taken_over_leaves_the_step(
    small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Callable[[Path], bool], moment: str
):
    """Here by nobody, so that it claims the step again itself."""
    lose: list[Lease] = []
    check = Lease.held

    def held(claim: Lease, surely: bool = False) -> bool:
        return not any(claim is lost for lost in lose) and check(claim, surely)

    monkeypatch.setattr(Lease, "held", held)
    claims: list[Lease] = []
    made = Lease.__init__

    def remembered(claim: Lease, *arguments: Any) -> None:
        made(claim, *arguments)
        claims.append(claim)

    monkeypatch.setattr(Lease, "__init__", remembered)

    def take_over() -> None:
        lose.append(claims[-1])
        vars(claims[-1])["_ended"].set()
        claims[-1].file.unlink()
        if moment == "error":  # the new owner has renamed a folder
            raise FileNotFoundError(errno.ENOENT, "No such file")

    if moment == "commit":
        monkeypatch.setattr(Store, "commit", calling(Store.commit, 2, take_over))
    else:
        monkeypatch.setattr(train.Log, "write", calling(train.Log.write, 5, take_over))
    run(small, tmp_path / "out")
    assert "taken over by another run" in told()
    assert same(tmp_path / "out")


def failing(times: int, error: Exception) -> Callable[..., Iterator[Any]]:
    """The stage of training, which fails the first times that it is run."""
    left, honest = [times], train.run

    def fails(*arguments: Any) -> Iterator[Any]:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        yield from honest(*arguments)

    return fails


def scratch_of(out: Path) -> Path:
    [folder] = (out / ".scratch").iterdir()
    return folder


def test_a_step_that_fails_is_tried_again_and_leaves_nothing(
    small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Callable[[Path], bool]
):
    monkeypatch.setattr(planning.train, "run", failing(2, ValueError("the disk is\non fire")))
    run(small, tmp_path / "out", PATIENCE)
    assert told().count("failed: ValueError: the disk is on fire; see ") == 2
    assert not list((tmp_path / "out" / ".scratch").iterdir())
    assert same(tmp_path / "out")


def test_a_step_that_always_fails_is_given_up_and_the_rest_is_done(
    tiny: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table = override(tiny, ["source.d_in=[8, 6]", "train.seeds=0"])
    honest = train.run

    def fails(jobs: Any, *arguments: Any) -> Iterator[Any]:
        if any(
            "dictionary" in job.step.config and job.step.inputs["source"].config["source"]["d_in"] == 8 for job in jobs
        ):
            raise ValueError("the disk is on fire")
        yield from honest(jobs, *arguments)

    monkeypatch.setattr(planning.train, "run", fails)
    for _ in range(2):  # by every worker
        with pytest.raises(
            UserError, match=r"^train: .*: ValueError: the disk is on fire \(on .*, process \d+\); see "
        ) as e:
            run(table, tmp_path, PATIENCE)
        log = Path(str(e.value).rpartition("; see ")[2])
        assert "Traceback" in log.read_text() and log == scratch_of(tmp_path) / "failure-3.log"
    records = json.loads((scratch_of(tmp_path) / FAILURES).read_text())
    assert [record["pid"] for record in records] == [os.getpid()] * 3
    done = [json.loads((f / "manifest.json").read_text())["stage"] for f in tmp_path.glob("score-*")]
    assert len(done) == 2 + 2 + 2  # the dictionaries of the other source, and the baselines of both
    monkeypatch.undo()
    run(table, tmp_path, Patience("run 2"))  # what failed in another run counts for nothing
    assert not list((tmp_path / ".scratch").iterdir())


def test_without_patience_an_error_is_raised_at_once(small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning.train, "run", failing(1, ValueError("on fire")))
    with pytest.raises(ValueError, match="on fire"):
        run(small, tmp_path)


def test_a_mistake_of_the_user_is_not_tried_again(small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning.train, "run", failing(1, UserError("train.lr = 9: diverged")))
    with pytest.raises(UserError, match=r"train: .*train\.lr = 9: diverged"):
        run(small, tmp_path, PATIENCE)


@pytest.mark.parametrize("is_named", [False, True])
def test_a_full_disk_fails_its_worker_and_counts_for_nothing(
    small: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
):
    full = OSError(errno.ENOSPC, "No space left on device", "x")
    error: Exception = full
    if is_named:  # as files of tensors name it
        error = UserError("x: No space left on device")
        error.__cause__ = full
    monkeypatch.setattr(planning.train, "run", failing(4, error))
    for _ in range(4):
        with pytest.raises(type(error), match="No space left"):
            run(small, tmp_path, PATIENCE)
    run(small, tmp_path, PATIENCE)


def test_a_worker_leaves_what_failed_on_it_to_others_that_work(tmp_path: Path):
    failures, scratch = Failures(PATIENCE), tmp_path / "train-01"
    assert failures.may_try(scratch, others_work=True)
    try:
        raise ValueError("x")
    except ValueError as error:
        assert failures.record(scratch, error) == Failure(
            "run 1", platform.node(), os.getpid(), "ValueError: x", "failure-1.log"
        )
    assert not failures.may_try(scratch, others_work=True) and failures.may_try(scratch, others_work=False)
    assert not Failures(Patience("run 1")).given_up(scratch)
    assert Failures(PATIENCE).may_try(scratch, others_work=True)  # another worker
    paused = Failures(Patience("run 1", pause_seconds=100.0), failures.failed_here)
    assert not paused.may_try(scratch, others_work=False)


@pytest.mark.parametrize("junk", ["", "{", "[3]", '[{"run": 3}]'])
def test_a_damaged_record_of_failures_counts_for_nothing(tmp_path: Path, junk: str):
    (tmp_path / FAILURES).write_text(junk)
    assert Failures(PATIENCE).given_up(tmp_path) is None

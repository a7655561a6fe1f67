"""Walks a plan: does what is missing, one group at a time, beside any other run that shares the folder.

Every group of steps belongs to one run at a time, by a lock that dies with its process. A step is finished or
absent, so that a run which was killed at any moment is simply started again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pipelines.config.config import RuntimeTable
from pipelines.plan import STAGES
from pipelines.steps import log_sinks as sinks
from pipelines.steps.progress import Board, Status, read_status
from pipelines.steps.step import Job, Runtime, Step
from pipelines.steps.store import Store
from sae.fitting import default_device
from sae.registry import UserError

POLL_SECONDS = 0.5


def execution(table: RuntimeTable) -> Runtime:
    """How the work is done on this machine; ``ValueError`` where it has no such device or a sink is missing."""
    sinks.check_sinks(table.sinks)
    if table.threads is not None:
        torch.set_num_threads(table.threads)
    device = default_device() if table.device == "auto" else table.device
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"runtime.device = {table.device!r}: this machine has no such device; try auto") from None
    return Runtime(device, table.threads, table.checkpoint_seconds, table.sinks)


def run(steps: Sequence[Step], store: Store, runtime: Runtime, board: Board) -> None:
    """Does every step that is not done. Raises what a stage raises; its unfinished directory is left to go on with."""
    store.create()
    for step in steps:
        if store.done(step):
            store.verify(step)
    waiting = False
    while pending := [step for step in steps if not store.done(step)]:
        groups = ready(pending, store.done)
        if any(_work_if_free(group, members, store, runtime, board) for group, members in groups.items()):
            waiting = False
            continue
        if groups and not waiting:
            board.note(f"waiting for another run of {next(iter(groups))}{_by(store, next(iter(groups)))}")
            waiting = True
        time.sleep(POLL_SECONDS)
    _sweep_scratch(steps, store)


def _sweep_scratch(steps: Sequence[Step], store: Store) -> None:
    """Removes the scratch of runs that were killed between their last step and their own tidying."""
    for group in {group_of(step) for step in steps}:
        status = read_status(store.scratch(group))
        if status and all((store.root / name).is_dir() for name in status.steps):
            with store.claim(group) as free:
                if free:
                    shutil.rmtree(store.scratch(group), ignore_errors=True)


def group_of(step: Step) -> str:
    """The name under which a step is locked and has its scratch folder."""
    return step.group or step.name


def ready(pending: Sequence[Step], done: Callable[[Step], bool]) -> Mapping[str, list[Step]]:
    """The steps whose inputs are all done, by group, in the order of the plan."""
    groups: dict[str, list[Step]] = {}
    for step in pending:
        if all(done(given) for given in step.inputs.values()):
            groups.setdefault(group_of(step), []).append(step)
    return groups


def _work_if_free(group: str, steps: Sequence[Step], store: Store, runtime: Runtime, board: Board) -> bool:
    """Does a group's steps; False where another run is at them."""
    with store.claim(group) as free:
        if free and (missing := [step for step in steps if not store.done(step)]):  # looked at again, now locked
            _work(group, missing, store, runtime, board)
        return free


def _work(group: str, missing: Sequence[Step], store: Store, runtime: Runtime, board: Board) -> None:
    """Each step is finished as soon as its stage yields it; an interruption leaves the rest, and the scratch."""
    scratch = store.scratch(group)
    scratch.mkdir(parents=True, exist_ok=True)
    jobs = [_job(step, store) for step in missing]
    began = time.monotonic()
    seen, timed = board.work(_title(missing), [step.name for step in missing], scratch), runtime.spans(missing[0].stage)
    with seen as tell, timed:
        for job in STAGES[missing[0].stage].run(jobs, scratch, runtime, tell):
            store.commit(job.step, runtime.device, time.monotonic() - began)
    undone = [step.name for step in missing if not store.done(step)]
    assert not undone, f"the stage did not finish {undone}"
    shutil.rmtree(scratch)


def _job(step: Step, store: Store) -> Job:
    out = store.partial(step)
    out.mkdir(exist_ok=True)
    return Job(step, {name: store.directory(given) for name, given in step.inputs.items()}, out)


def _title(steps: Sequence[Step]) -> str:
    title = f"{steps[0].stage}: {steps[0].title}"
    return title if len(steps) == 1 else f"{title} and {len(steps) - 1} more"


def _by(store: Store, group: str) -> str:
    status = read_status(store.scratch(group))
    return f" (process {status.pid})" if status else ""


StepState = Literal["done", "running", "stopped", "waiting", "damaged"]


@dataclass(frozen=True)
class StepStanding:
    """Where a step stands, and what there is to say about it."""

    step: Step
    state: StepState
    status: Status | None = None
    problem: str = ""


def standings(steps: Sequence[Step], store: Store) -> list[StepStanding]:
    """Where every step stands, seen from outside: nothing is changed."""
    held: dict[str, tuple[bool, Status | None]] = {}
    return [_standing(step, store, held) for step in steps]


def _standing(step: Step, store: Store, held: dict[str, tuple[bool, Status | None]]) -> StepStanding:
    if store.done(step):
        try:
            store.verify(step)
        except ValueError as error:
            return StepStanding(step, "damaged", problem=str(error))
        return StepStanding(step, "done")
    group = group_of(step)
    if group not in held:
        held[group] = (_is_held(store, group), read_status(store.scratch(group)))
    running, status = held[group]
    if status is None or step.name not in status.steps:
        return StepStanding(step, "waiting")
    return StepStanding(step, "running" if running else "stopped", status)


def _is_held(store: Store, group: str) -> bool:
    if not store.scratch(group).is_dir():  # the lock is left alone where nobody works
        return False
    with store.claim(group) as free:
        return not free

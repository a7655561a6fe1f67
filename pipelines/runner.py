"""Runs a plan: does the missing steps group by group; several runs may share the output folder.

A lock, released when its process dies, gives a group of steps to one run at a time. A step is either finished or
absent, so a run that was killed at any moment can simply be started again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from pipelines.config.tables import RuntimeTable
from pipelines.following import job_of, tell_end, tell_others
from pipelines.plan import STAGES
from pipelines.steps import log_sinks as sinks
from pipelines.steps.checksums import CHECKSUMS
from pipelines.steps.external_files import files_of, refuse_changed
from pipelines.steps.joining import own_device
from pipelines.steps.known_hashes import load_known, save_known
from pipelines.steps.progress import STATUS, Board, Status, read_status
from pipelines.steps.step import Job, Runtime, Step
from pipelines.steps.store import Store
from sae.fitting import default_device
from sae.model.placement import ALL, run_models_on
from sae.numerics.atomic_write import named_errors
from sae.numerics.devices import check_device
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError

POLL_SECONDS = 0.5
"""Time between looks at steps that another run is working on."""


def execution(table: RuntimeTable, processes: Processes = ALONE) -> Runtime:
    """The runtime for a ``[runtime]`` table; sets torch's threads. Each of several `processes` takes a GPU of its own.

    Raises `UserError` where this machine has no such device or a sink is not installed.
    """
    sinks.check_sinks(table.sinks)
    if table.threads is not None:
        torch.set_num_threads(table.threads)
    device = table.device
    if device == "auto":
        device = default_device() if processes.size == 1 else own_device()
    check_device("runtime.device", device, "use auto")
    if table.model_device not in (None, ALL):
        check_device("runtime.model_device", table.model_device, "use auto")
    run_models_on(table.model_device)
    return Runtime(device, table.threads, table.checkpoint_seconds, table.sinks, processes=processes)


def run(steps: Sequence[Step], store: Store, runtime: Runtime, board: Board) -> None:
    """Does every step that is not done, after verifying those that are.

    Raises what a stage raises; the unfinished directory is kept, and the next run continues from it. Raises `UserError`
    where the folder is not writable or a finished step is damaged.
    """
    store.create()
    load_known(store.root)
    outside, trusted = files_of(steps), set[str]()
    waiting = False
    while pending := _pending(steps, store, trusted):
        save_known(store.root, outside)
        groups = ready(pending, store.done)
        if any(_work_if_free(group, members, store, runtime, board, trusted) for group, members in groups.items()):
            waiting = False
            continue
        if groups and not waiting:
            board.note(f"waiting for another run to finish {next(iter(groups))}{_process(store, next(iter(groups)))}")
            waiting = True
        time.sleep(POLL_SECONDS)
    save_known(store.root, outside)
    _remove_old_scratch(steps, store)
    tell_end(runtime)


def _pending(steps: Sequence[Step], store: Store, trusted: set[str]) -> list[Step]:
    """The steps that are not done. Those that are done are verified once, also where another run has just done them;
    `trusted` holds the names of those that were verified or done by this run."""
    pending = [step for step in steps if not store.done(step)]
    names = {step.name for step in pending}
    for step in steps:
        if step.name not in names and step.name not in trusted:
            store.verify(step)
            trusted.add(step.name)
    return pending


def _remove_old_scratch(steps: Sequence[Step], store: Store) -> None:
    """Removes the scratch folders left by runs that were killed after finishing a group, or before they began it, and
    the checksums of unfinished work in folders of finished steps."""
    for step in steps:
        (store.directory(step) / CHECKSUMS).unlink(missing_ok=True)
    for group in {group_of(step) for step in steps}:
        scratch = store.scratch(group)
        status = read_status(scratch)
        finished = status is not None and all((store.root / name).is_dir() for name in status.steps)
        if finished or _holds_no_work(scratch):
            with store.claim(group) as free:
                if free:
                    shutil.rmtree(scratch, ignore_errors=True)


def group_of(step: Step) -> str:
    """The name of a step's lock and scratch folder."""
    return step.group or step.name


def ready(pending: Sequence[Step], done: Callable[[Step], bool]) -> Mapping[str, list[Step]]:
    """The pending steps whose inputs are all done, by group, in the order of the plan."""
    groups: dict[str, list[Step]] = {}
    for step in pending:
        if all(done(source) for source in step.inputs.values()):
            groups.setdefault(group_of(step), []).append(step)
    return groups


def _work_if_free(
    group: str, steps: Sequence[Step], store: Store, runtime: Runtime, board: Board, trusted: set[str]
) -> bool:
    """Does the steps of a group and adds them to `trusted`; False where another run is working on them."""
    with store.claim(group) as free:
        if free and (missing := [step for step in steps if not store.done(step)]):  # checked again under the lock
            _work(group, missing, store, runtime, board)
            trusted.update(step.name for step in missing)
        return free


def _work(group: str, missing: Sequence[Step], store: Store, runtime: Runtime, board: Board) -> None:
    """Does the steps of a locked group. Each is finished as soon as the stage yields it, so that an interruption loses
    only the others; the scratch folder is kept until all are finished."""
    scratch = store.scratch(group)
    scratch.mkdir(parents=True, exist_ok=True)
    jobs = [_job(step, store) for step in missing]
    start, stage = time.monotonic(), missing[0].stage
    shown = board.work(_title(missing), [step.name for step in missing], scratch)
    kept_in_order = _removes_empty_folders(missing, scratch, store)
    with named_errors(store.root), kept_in_order, shown as progress, runtime.spans(stage):
        for step in missing:
            refuse_changed(step)
        for source in {source.name: source for step in missing for source in step.inputs.values()}.values():
            store.verify(source, whole=True)
        tell_others(runtime, stage, group, missing)
        for job in STAGES[stage].run(jobs, scratch, replace(runtime, note=board.note), progress):
            try:
                refuse_changed(job.step)
            except UserError:  # what was written may come from the changed file: none of it is continued from
                _discard(missing, scratch, store)
                raise
            store.commit(job.step, runtime.device, time.monotonic() - start)
    unfinished = [step.name for step in missing if not store.done(step)]
    assert not unfinished, f"the stage did not finish {unfinished}"
    shutil.rmtree(scratch)


@contextmanager
def _removes_empty_folders(steps: Sequence[Step], scratch: Path, store: Store) -> Generator[None]:
    """After a user's mistake, such as a hook that does not exist, removes the folders in which nothing was written: the
    corrected config has other steps, and nobody would continue these."""
    try:
        yield
    except UserError:
        for folder in map(store.partial, steps):
            if folder.is_dir() and all(file.name == CHECKSUMS for file in folder.iterdir()):
                shutil.rmtree(folder)
        if _holds_no_work(scratch):
            shutil.rmtree(scratch, ignore_errors=True)
        raise


def _holds_no_work(scratch: Path) -> bool:
    """Whether a scratch folder has nothing but, at most, the status of its run."""
    return scratch.is_dir() and all(file.stem == Path(STATUS).stem for file in scratch.iterdir())


def _discard(steps: Sequence[Step], scratch: Path, store: Store) -> None:
    """Removes the unfinished work on steps."""
    for folder in (*map(store.partial, steps), scratch):
        shutil.rmtree(folder, ignore_errors=True)


def _job(step: Step, store: Store) -> Job:
    job = job_of(step, store)
    job.out.mkdir(exist_ok=True)
    return job


def _title(steps: Sequence[Step]) -> str:
    title = f"{steps[0].stage}: {steps[0].title}"
    return title if len(steps) == 1 else f"{title} and {len(steps) - 1} more"


def _process(store: Store, group: str) -> str:
    status = read_status(store.scratch(group))
    return f" (process {status.pid})" if status else ""


StepState = Literal["done", "running", "stopped", "waiting", "damaged"]
"""`waiting` steps have not started, `stopped` ones were interrupted, `damaged` ones fail verification."""


@dataclass(frozen=True)
class StepStanding:
    """State of a step."""

    step: Step
    """The step."""
    state: StepState
    """Its state."""
    status: Status | None = None
    """Progress of its group, for a running or stopped step."""
    problem: str = ""
    """What is wrong with a damaged step."""


def standings(steps: Sequence[Step], store: Store) -> list[StepStanding]:
    """The state of every step; changes nothing on disk."""
    groups: dict[str, tuple[bool, Status | None]] = {}
    return [_standing(step, store, groups) for step in steps]


def _standing(step: Step, store: Store, groups: dict[str, tuple[bool, Status | None]]) -> StepStanding:
    """The state of one step; `groups` caches whether each group is locked, and its status."""
    if store.done(step):
        try:
            store.verify(step)
        except UserError as error:
            return StepStanding(step, "damaged", problem=str(error))
        return StepStanding(step, "done")
    group = group_of(step)
    if group not in groups:
        groups[group] = (_is_locked(store, group), read_status(store.scratch(group)))
    running, status = groups[group]
    if status is None or step.name not in status.steps:
        return StepStanding(step, "waiting")
    return StepStanding(step, "running" if running else "stopped", status)


def _is_locked(store: Store, group: str) -> bool:
    return store.scratch(group).is_dir() and store.is_claimed(group)  # without a scratch folder no run works on it

"""Runs a plan: does the missing steps group by group; several runs, on any machines, may share the output folder.

A claim gives a group of steps to one run at a time (`pipelines.steps.lease`). A step is either finished or absent, so a
run that was killed at any moment can simply be started again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from pipelines.config.tables import RuntimeTable
from pipelines.steps import log_sinks as sinks
from pipelines.steps.checksums import CHECKSUMS
from pipelines.steps.external_files import files_of, open_checked
from pipelines.steps.failures import Failures, GivenUp, Patience, StepsFailed
from pipelines.steps.joining import own_device
from pipelines.steps.known_hashes import load_known, save_known
from pipelines.steps.lease import ClaimLost
from pipelines.steps.progress import Board, Status, read_status
from pipelines.steps.step import Runtime, Step
from pipelines.steps.stopping import Stopped, asked_to_stop, stoppable
from pipelines.steps.store import Store
from pipelines.steps.together import tell_end
from pipelines.work import holds_no_work, title_of, work_on
from sae.fitting import default_device
from sae.model.placement import ALL, run_models_on
from sae.numerics.devices import check_device
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError
from sae.source import Source

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


def prepared_source(step: Step, store: Store, runtime: Runtime, board: Board) -> Source:
    """The source that a step prepares; the step, and that of a model that it needs, are done where they are not."""
    run([*step.inputs.values(), step], store, runtime, board)
    return open_checked(step, store.directory(step), runtime.device)


def run(steps: Sequence[Step], store: Store, runtime: Runtime, board: Board, patience: Patience | None = None) -> None:
    """Does every step that is not done, after verifying those that are.

    Raises what a stage raises; the unfinished directory is kept, and the next run continues from it. With `patience`,
    as for workers that share the folder, a step that fails is left to another worker and the rest is done; `UserError`,
    with the first error and the place of its traceback, is raised once nothing more can be done.

    Raises `UserError` where the folder is not writable or a finished step is damaged, and
    :class:`~pipelines.steps.stopping.Stopped`, which ends the process, after SIGTERM.
    """
    store.create()
    load_known(store.root)
    with stoppable():
        try:
            _Run(steps, store, runtime, board, None if patience is None else Failures(patience)).do()
        except Stopped as stop:
            board.note(f"stopped by {asked_to_stop()}; the next run continues {stop.where}")
            raise
    _remove_leftovers(steps, store)
    tell_end(runtime)


@dataclass
class _Run:
    """A run while it goes on."""

    steps: Sequence[Step]
    store: Store
    runtime: Runtime
    board: Board
    failures: Failures | None
    trusted: set[str] = field(default_factory=set)
    """Names of the steps that were verified or done by this run."""

    def do(self) -> None:
        """Does group by group what is ready and nobody else works on, until nothing is left."""
        outside, waiting = files_of(self.steps), False
        while pending := _pending(self.steps, self.store, self.trusted):
            save_known(self.store.root, outside)
            groups = ready(pending, self.store.done)
            if asked_to_stop():
                raise Stopped(f"with {title_of(pending)}")
            if any(self._work_if_free(group, members) for group, members in self._open(groups).items()):
                waiting = False
                continue
            if groups and not waiting:
                first = next(iter(groups))
                self.board.note(f"waiting for another run to finish {first}{_process(self.store, first)}")
                waiting = True
            time.sleep(POLL_SECONDS)
        save_known(self.store.root, outside)

    def _open(self, groups: Mapping[str, list[Step]]) -> Mapping[str, list[Step]]:
        """The groups that this worker may try. Raises `UserError` where all were given up."""
        if self.failures is None or not groups:
            return groups
        scratch = {group: self.store.scratch(group) for group in groups}
        failed = {group: f for group, folder in scratch.items() if (f := self.failures.given_up(folder)) is not None}
        left = [group for group in groups if group not in failed]
        if not left:
            raise StepsFailed({g: GivenUp(title_of(groups[g]), f, scratch[g] / f.log) for g, f in failed.items()})
        here = self.failures.failed_here
        others_work = any(group in here for group in left) and any(self.store.is_claimed(group) for group in left)
        return {g: groups[g] for g in left if self.failures.may_try(scratch[g], others_work)}

    def _work_if_free(self, group: str, steps: Sequence[Step]) -> bool:
        """Does the steps of a group; False where another run is working on them."""
        with self.store.claim(group) as lease:
            if lease is None:
                return False
            scratch = self.store.scratch(group)  # it and the steps are looked at again under the claim
            missing = self.store.missing(steps)
            if not missing or (self.failures is not None and self.failures.given_up(scratch)):
                return True
            try:
                work_on(group, missing, self.store, self.runtime, self.board, lease)
            except ClaimLost as lost:
                if self.runtime.processes.size > 1:  # the others are in the midst of the stage, and end with this one
                    raise UserError(f"{title_of(missing)}: {lost}; run the same command again") from None
                self.board.note(f"{title_of(missing)}: {lost}")
                return False
            except Exception as error:
                if self.failures is None:
                    raise
                failure = self.failures.record(scratch, error)
                self.board.note(f"{title_of(missing)}: failed: {failure.error}; see {scratch / failure.log}")
                return True
            self.trusted.update(step.name for step in missing)
            return True


def _pending(steps: Sequence[Step], store: Store, trusted: set[str]) -> list[Step]:
    """The steps that are not done. Those that are done are verified once, also where another run has just done them;
    `trusted` holds the names of those that were verified or done by this run."""
    pending = store.missing(steps)
    names = {step.name for step in pending}
    for step in steps:
        if step.name not in names and step.name not in trusted:
            store.verify(step)
            trusted.add(step.name)
    return pending


def _remove_leftovers(steps: Sequence[Step], store: Store) -> None:
    """Removes what runs have left that were killed after finishing a group, or before they began it, or that went on
    writing for a moment after another had taken over: scratch folders, unfinished folders and checksums of finished
    steps, and claims."""
    for step in steps:
        (store.directory(step) / CHECKSUMS).unlink(missing_ok=True)
    partial = {store.partial(step): group_of(step) for step in steps if store.partial(step).is_dir()}
    for group in {group_of(step) for step in steps}:
        scratch = store.scratch(group)
        status = read_status(scratch)
        finished = status is not None and all((store.root / name).is_dir() for name in status.steps)
        folders = [folder for folder, of in partial.items() if of == group]
        folders += [scratch] if finished or holds_no_work(scratch) else []
        if folders:
            with store.claim(group) as lease:
                for folder in folders if lease else ():
                    shutil.rmtree(folder, ignore_errors=True)
    store.tidy()


def group_of(step: Step) -> str:
    """The name of a step's claim and scratch folder."""
    return step.group or step.name


def ready(pending: Sequence[Step], done: Callable[[Step], bool]) -> Mapping[str, list[Step]]:
    """The pending steps whose inputs are all done, by group, in the order of the plan."""
    groups: dict[str, list[Step]] = {}
    for step in pending:
        if all(done(source) for source in step.inputs.values()):
            groups.setdefault(group_of(step), []).append(step)
    return groups


def _process(store: Store, group: str) -> str:
    status = read_status(store.scratch(group))
    return f" (process {status.pid}{f' on {status.host}' if status.host else ''})" if status else ""


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
    """The state of one step; `groups` caches whether each group is claimed, and its status."""
    if store.done(step):
        try:
            store.verify(step)
        except UserError as error:
            return StepStanding(step, "damaged", problem=str(error))
        return StepStanding(step, "done")
    group = group_of(step)
    if group not in groups:
        groups[group] = (_is_claimed(store, group), read_status(store.scratch(group)))
    running, status = groups[group]
    if status is None or step.name not in status.steps:
        return StepStanding(step, "waiting")
    return StepStanding(step, "running" if running else "stopped", status)


def _is_claimed(store: Store, group: str) -> bool:
    return store.scratch(group).is_dir() and store.is_claimed(group)  # without a scratch folder no run works on it

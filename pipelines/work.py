"""The work on one claimed group of steps: its folders, its stage, and when it is left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.plan import STAGES
from pipelines.steps.checksums import CHECKSUMS
from pipelines.steps.external_files import refuse_changed
from pipelines.steps.failures import is_of_failures
from pipelines.steps.lease import Lease
from pipelines.steps.progress import STATUS, Board
from pipelines.steps.step import Job, Runtime, StageProgress, Step
from pipelines.steps.stopping import Stopped, asked_to_stop
from pipelines.steps.store import Store
from pipelines.steps.together import tell_others
from sae.numerics.atomic_write import named_errors
from sae.registry import UserError


def work_on(group: str, missing: Sequence[Step], store: Store, runtime: Runtime, board: Board, lease: Lease) -> None:
    """Does the steps of a claimed group. Each is finished as soon as the stage yields it, so that an interruption loses
    only the others; the scratch folder is kept until all are finished.

    Raises what the stage raises; :class:`~pipelines.steps.lease.ClaimLost` where another run has taken over, and
    :class:`~pipelines.steps.stopping.Stopped` where this process is to end.
    """
    scratch = store.scratch(group)
    scratch.mkdir(parents=True, exist_ok=True)
    jobs = [_job(step, store) for step in missing]
    start, stage = time.monotonic(), missing[0].stage
    shown = board.work(title_of(missing), [step.name for step in missing], scratch)
    kept_in_order = _removes_empty_folders(missing, scratch, store, lease)
    with named_errors(store.root), kept_in_order, shown as progress, runtime.spans(stage):
        for step in missing:
            refuse_changed(step)
        for source in {source.name: source for step in missing for source in step.inputs.values()}.values():
            store.verify(source, whole=True)
        watch = _Watch(lease, title_of(missing), progress)
        watched = replace(runtime, note=board.note, stopping=watch.stopping)
        tell_others(runtime, stage, group, missing)
        for job in STAGES[stage].run(jobs, scratch, watched, watch.progress):
            try:
                refuse_changed(job.step)
            except UserError:  # what was written may come from the changed file: none of it is continued from
                lease.check(surely=True)
                _discard(missing, scratch, store)
                raise
            store.commit(job.step, runtime.device, time.monotonic() - start, lease)
    unfinished = [step.name for step in missing if not store.done(step)]
    assert not unfinished, f"the stage did not finish {unfinished}"
    lease.check(surely=True)
    shutil.rmtree(scratch)


@dataclass
class _Watch:
    """What a stage calls while it works; both raise where the work is to be left."""

    lease: Lease
    title: str
    show: StageProgress
    leaves_itself: bool = False
    """Whether the stage asks `stopping`, and so leaves at a moment of its own choice."""

    def progress(self, done: int, total: int, unit: str, **figures: float) -> None:
        self.lease.check()
        if asked_to_stop() and not self.leaves_itself:
            raise Stopped(f"with {self.title}")
        self.show(done, total, unit, **figures)

    def stopping(self) -> bool:
        self.leaves_itself = True
        self.lease.check()
        return asked_to_stop() != ""


@contextmanager
def _removes_empty_folders(steps: Sequence[Step], scratch: Path, store: Store, lease: Lease) -> Generator[None]:
    """After a user's mistake, such as a hook that does not exist, removes the folders in which nothing was written: the
    corrected config has other steps, and nobody would continue these.

    An error of a run whose claim was taken over is none of the stage: another may have renamed its folders.
    """
    try:
        yield
    except Exception as error:
        lease.check(surely=True)
        if isinstance(error, UserError):
            for folder in map(store.partial, steps):
                if folder.is_dir() and all(file.name == CHECKSUMS for file in folder.iterdir()):
                    shutil.rmtree(folder)
            if holds_no_work(scratch):
                shutil.rmtree(scratch, ignore_errors=True)
        raise


def holds_no_work(scratch: Path) -> bool:
    """Whether a scratch folder has nothing but, at most, the status of its run and the record of failures."""
    return scratch.is_dir() and all(
        file.stem == Path(STATUS).stem or is_of_failures(file) for file in scratch.iterdir()
    )


def _discard(steps: Sequence[Step], scratch: Path, store: Store) -> None:
    """Removes the unfinished work on steps."""
    for folder in (*map(store.partial, steps), scratch):
        shutil.rmtree(folder, ignore_errors=True)


def _job(step: Step, store: Store) -> Job:
    job = store.job(step)
    job.out.mkdir(exist_ok=True)
    return job


def title_of(steps: Sequence[Step]) -> str:
    """Stage and title of a group of steps."""
    title = f"{steps[0].stage}: {steps[0].title}"
    return title if len(steps) == 1 else f"{title} and {len(steps) - 1} more"

"""Failures of steps on which several workers work: recorded in the scratch folder, tried again elsewhere, given up.

A bug or an error of the system may belong to one machine, so that another worker tries the step again. A mistake of the
user fails everywhere. A full disk is that of a worker, which leaves, and counts for nothing.
"""

from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.steps.lease import uptime
from pipelines.steps.owner import this_process
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

FAILURES = "failures.json"
"""File in a group's scratch folder with what failed; the traceback of each is beside it."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True)
class Patience:
    """How workers that share a folder of steps take a step that fails; without, the error is raised at once."""

    run: str
    """Identity of the run, the same for all workers that are started together. What failed in another run, perhaps
    before the cause was mended, does not count."""
    attempts: int = 3
    """How often a step is tried before it is given up, by different workers where there are others."""
    pause_seconds: float = 5.0
    """How long a worker that fails leaves the step to others that have nothing to do, before it tries again itself."""


@dataclass(frozen=True)
class Failure:
    """A group of steps failed on a worker."""

    run: str
    """Identity of the run."""
    host: str
    """Name of the machine."""
    pid: int
    """Process number of the worker."""
    error: str
    """Kind and text of the error in one line."""
    log: str
    """Name of the file with the traceback, in the same folder."""
    counts: bool = True
    """False where the error is the worker's, such as a full disk."""
    is_final: bool = False
    """Whether it would fail everywhere."""


@dataclass
class Failures:
    """What failed in a run, and what this worker may try."""

    patience: Patience
    """How often what is tried."""
    failed_here: dict[str, float] = field(default_factory=dict)
    """When which group failed on this worker."""

    def given_up(self, scratch: Path) -> Failure | None:
        """The last failure of a group that is not tried again; None for all others."""
        found = self._of(scratch)
        is_over = any(f.is_final for f in found) or sum(f.counts for f in found) >= self.patience.attempts
        return found[-1] if is_over else None

    def may_try(self, scratch: Path, others_work: bool) -> bool:
        """Whether this worker may try a group: one that failed here only where no other worker will."""
        failed_at = self.failed_here.get(scratch.name)
        return failed_at is None or (not others_work and uptime() - failed_at >= self.patience.pause_seconds)

    def record(self, scratch: Path, error: Exception) -> Failure:
        """Records that a group failed on this worker with the exception that is being handled.

        Raises it again where it is the worker that cannot go on.
        """
        self.failed_here[scratch.name] = uptime()
        is_full = _is_full_disk(error)
        found, here = _read(scratch), this_process()
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log = f"failure-{len(found) + 1}.log"
        is_final = isinstance(error, UserError) and not is_full
        failure = Failure(self.patience.run, here.host, here.pid, text, log, not is_full, is_final)
        with suppress(OSError):  # a full disk
            scratch.mkdir(parents=True, exist_ok=True)
            write_atomically(scratch / log, traceback.format_exc().encode())
            content = json.dumps([asdict(f) for f in (*found, failure)], indent=1)
            write_atomically(scratch / FAILURES, content.encode())
        if is_full:
            raise error
        return failure

    def _of(self, scratch: Path) -> list[Failure]:
        return [failure for failure in _read(scratch) if failure.run == self.patience.run]


def is_of_failures(file: Path) -> bool:
    """Whether a file of a scratch folder only tells of failures."""
    return file.name == FAILURES or file.name.startswith("failure-")


@dataclass(frozen=True)
class GivenUp:
    """A group of steps that is not tried again."""

    title: str
    """Stage and title of its steps."""
    failure: Failure
    """Its last failure."""
    log: Path
    """The file with the traceback."""

    @property
    def error(self) -> str:
        """The error in one line; a mistake of the user without its kind."""
        return self.failure.error.removeprefix(f"{UserError.__name__}: ")


class StepsFailed(UserError):
    """Steps that were given up, in one line for the first group of them."""

    def __init__(self, groups: Mapping[str, GivenUp]) -> None:
        self.groups = groups
        """What was given up, by the name of the group."""
        [first, *others] = groups.values()
        more = f"; {len(others)} more failed, see {FAILURES} in the folders beside it" if others else ""
        place = f"(on {first.failure.host}, process {first.failure.pid}); see {first.log}"
        super().__init__(f"{first.title}: {first.failure.error} {place}{more}")


def _is_full_disk(error: BaseException) -> bool:
    causes: Sequence[Any] = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in _FULL for cause in causes)


def _read(scratch: Path) -> list[Failure]:
    """All that is recorded; nothing where there is no record or it is damaged."""
    try:
        return TypeAdapter(list[Failure]).validate_json((scratch / FAILURES).read_bytes())
    except (OSError, ValueError, ValidationError):
        return []

"""Interface of engines, which start the workers of a run, see to them and end them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pipelines.engines.shared_run import SharedRun
from pipelines.engines.worker_state import FailedStep, failures_of, read_states
from pipelines.steps.step import Step


class WorkerEngine(ABC):
    """Starts the workers of one run."""

    name: ClassVar[str]
    """The name by which `--on` chooses it."""
    detaches: bool = False
    """Whether the command ends as soon as the workers are started."""

    def rejoin(self, steps: Sequence[Step], root: Path) -> SharedRun | None:
        """The run whose workers, started by an earlier command, still work on these steps; None where there is none,
        as where workers end with their command. :meth:`start` then starts none."""
        return None

    @abstractmethod
    def start(self, run: SharedRun, n: int) -> None:
        """Starts `n` workers, called 1 to `n`. Raises `UserError` where that is not possible."""

    @abstractmethod
    def tend(self, is_pending: bool) -> int:
        """Called several times a second: starts workers again that have died while there is work, as `is_pending`
        says, and returns how many are at work or will be."""

    @abstractmethod
    def stop(self) -> str:
        """Called where the command ends before the work does: ends the workers, or leaves them to their cluster and
        returns a line on how to see and to cancel them."""

    def failures(self, run: SharedRun) -> list[FailedStep]:
        """What the workers could not do."""
        return failures_of(read_states(run.folder))

    def lost(self) -> list[str]:
        """A line for each worker that was given up: it died again and again."""
        return []

"""Steps of a run, named by the hash of what they depend on, and the interface of stages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sae.numerics.processes import ALONE, Processes
from sae.numerics.profiler import NO_SPANS, Spans


@dataclass(frozen=True)
class Step:
    """One application of a stage to a config and to the directories of other steps."""

    stage: str
    """Name of the stage, such as ``train``."""
    version: int
    """Version of the stage's code."""
    config: Mapping[str, Any]
    """Settings of the step, as JSON values."""
    inputs: Mapping[str, Step] = field(default_factory=dict)
    """Steps whose directories it reads, by the name under which the stage looks them up."""
    group: str = ""
    """Marks steps that one call of the stage works on together, such as the members of a stack or the dictionaries
    scored on one source. It affects how the work is done and no result, so it is not in the key."""
    title: str = ""
    """Text for people; not in the key."""

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of stage, version, config and the inputs' keys."""
        inputs = {name: step.key for name, step in self.inputs.items()}
        content = {"stage": self.stage, "version": self.version, "config": self.config, "inputs": inputs}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The name of the step's directory, e.g. ``train-0123456789abcdef``."""
        return f"{self.stage}-{self.key}"


@dataclass(frozen=True)
class Job:
    """A step to be done, with its directories."""

    step: Step
    """The step."""
    inputs: Mapping[str, Path]
    """Directories of the finished input steps, by the names in ``step.inputs``."""
    out: Path
    """Directory to fill."""


def _silent(_: str) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Runtime:
    """How work is executed; no part of it enters a key."""

    device: str = "cpu"
    """Torch device."""
    threads: int | None = None
    """Torch threads; None leaves torch's default."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints of training."""
    sinks: tuple[str, ...] = ()
    """Where training logs go besides ``log.jsonl``: ``trackio`` and ``wandb``."""
    note: Callable[[str], None] = _silent
    """Shows one line to the user."""
    processes: Processes = ALONE
    """The processes that do the work of one run together; the first of them decides what is done."""
    stopping: Callable[[], bool] = _never
    """Whether the process is to end: a stage that asks makes the next run continue from here, and raises
    :class:`~pipelines.steps.stopping.Stopped`. Others are left by the runner at their next report of progress."""
    spans: Spans = NO_SPANS
    """Records where time goes: a span for each group of steps, named by its stage, with finer ones inside."""


class StageProgress(Protocol):
    """Callback by which a stage reports its progress; the runner shows it and writes it for ``sae status``."""

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None:
        """`done` of `total` units are done; `unit` is a plural noun, `figures` are values to show, such as the loss."""
        ...


class Stage(Protocol):
    """Interface of a stage, implemented by its module."""

    @property
    def VERSION(self) -> int:
        """Part of the key; increased when the stage's results change."""
        ...

    def run(self, jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
        """Fills the `out` of every job and yields each job as soon as it is complete.

        `scratch` is the group's directory for checkpoints; it survives an interruption.
        """
        ...

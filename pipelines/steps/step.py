"""The noun `Step`: one piece of staged work, named by what it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sae.numerics.profiler import NO_SPANS, Spans


@dataclass(frozen=True)
class Step:
    """One stage with its config and its inputs.

    `group` marks steps that one call of the stage works on together (the members of a stack, the dictionaries
    scored on one source). It changes how the work is done, never what comes out, so it is not in the key.
    """

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Step] = field(default_factory=dict)
    group: str = ""
    title: str = ""

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of SHA-256 over stage, version, config and the inputs' keys."""
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
    """A step to be done: its inputs are complete directories, `out` is the directory to fill."""

    step: Step
    inputs: Mapping[str, Path]
    out: Path


@dataclass(frozen=True)
class Runtime:
    """How work is executed; none of it is part of a key."""

    device: str = "cpu"
    threads: int | None = None
    checkpoint_seconds: float = 30.0
    sinks: tuple[str, ...] = ()
    """Where training logs go besides log.jsonl: ``trackio`` and ``wandb``."""
    spans: Spans = NO_SPANS
    """Records where time goes: a span for each group of steps, named by its stage, with finer ones inside."""


class Tell(Protocol):
    """How a stage says how far it is: ``tell(done, total, unit, **figures)``. The runner draws it, and writes it
    where ``sae status`` finds it."""

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None: ...


class Stage(Protocol):
    """What the module of a stage offers."""

    @property
    def VERSION(self) -> int:
        """Part of the key: raised when the stage's results change."""
        ...

    def run(self, jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
        """Fills the `out` of every job and yields each one as soon as it is complete. `scratch` is a directory
        of the group's own that outlives an interruption: checkpoints go there."""
        ...

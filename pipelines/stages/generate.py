"""Stage `generate`: sources that are computed from their settings, or read from a file of activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.source_steps import prepare
from pipelines.steps.step import Job, Runtime, Tell

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Fills the directory of every source."""
    return prepare(jobs, runtime, tell)

"""Stage `stream`: prepares sources that run a model; an interrupted one continues after its last complete shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.source_steps import prepare
from pipelines.steps.step import Job, Runtime, StageProgress

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Prepares every source in its job's directory."""
    return prepare(jobs, runtime, progress)

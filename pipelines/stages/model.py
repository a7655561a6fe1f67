"""Stage `model`: trains the models that sources read; an interrupted one continues from its last state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.checksums import record_files
from pipelines.steps.source_steps import begin, model_settings
from pipelines.steps.step import Job, Runtime, StageProgress

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Trains every model in its job's directory."""
    for job in jobs:
        begin(job, runtime)

        def report(done: int, total: int, unit: str, of: Job = job) -> None:
            record_files(of.out)
            progress(done, total, unit)

        settings = model_settings(job.step.config)
        settings.train(job.out, report, runtime.device)
        record_files(job.out)
        if summary := settings.summary(job.out):
            runtime.note(summary)
        yield job

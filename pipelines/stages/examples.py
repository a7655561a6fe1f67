"""Stage `examples`: gathers the examples of a source that probes are fitted and scored on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.source_steps import open_step, settings
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.probing import TaskSettings, examples_of

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``train.safetensors``, ``test.safetensors`` and, where configured, ``shift.safetensors`` into every job's
    directory."""
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "sources")
        step = job.step.inputs["source"]
        config, source = settings(step.config["source"]), open_step(step, job.inputs["source"], runtime.device)
        for part, examples in examples_of(source, TaskSettings(**job.step.config["tasks"]), config).items():
            examples.save(job.out / f"{part}.safetensors")
        yield job
    progress(len(jobs), len(jobs), "sources")

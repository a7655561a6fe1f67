"""Stage `examples`: what probes are fitted and scored on, gathered once for every dictionary of a source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.source_steps import open_source, settings
from pipelines.steps.step import Job, Runtime, Tell
from sae.probing import TaskSettings, examples_of

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``train.safetensors``, ``test.safetensors`` and, where it is asked for, ``shift.safetensors`` in every
    job's directory."""
    for i, job in enumerate(jobs):
        tell(i, len(jobs), "sources")
        directory = job.inputs["source"]
        config = settings(json.loads((directory / "manifest.json").read_text())["config"]["source"])
        source = open_source(directory, runtime.device)
        for part, examples in examples_of(source, TaskSettings(**job.step.config["tasks"]), config).items():
            examples.save(job.out / f"{part}.safetensors")
        yield job
    tell(len(jobs), len(jobs), "sources")

"""Stage `encode`: other encoders for dictionaries that are there, fitted on training rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.cost import metered
from pipelines.steps.source_steps import open_source
from pipelines.steps.step import Job, Runtime, Tell
from sae.files import load, save

VERSION = 2


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``dictionary/``, the same directions read otherwise, in every job's directory."""
    source = open_source(jobs[0].inputs["source"], runtime.device)
    for i, job in enumerate(jobs):
        tell(i, len(jobs), "encoders")
        settings = dict(job.step.config["encoder"])
        d = load(job.inputs["dictionary"]).to(runtime.device)
        with metered(runtime.device) as cost:
            read = d.with_encoder(settings.pop("kind"), source, job.step.config["seed"], **settings)
        cost.write(job.out, before=job.inputs["dictionary"])
        save(read.with_card(step=job.step.name), job.out / "dictionary")
        yield job
    tell(len(jobs), len(jobs), "encoders")

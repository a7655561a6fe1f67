"""Stage `encode`: gives existing dictionaries other encoders, fitted on the training split only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.cost import metered
from pipelines.steps.source_steps import open_step
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.files import load, save

VERSION = 2


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``dictionary/`` into every job's directory: the same decoder with the configured encoder."""
    source = open_step(jobs[0].step.inputs["source"], jobs[0].inputs["source"], runtime.device)
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "encoders")
        settings = dict(job.step.config["encoder"])
        d = load(job.inputs["dictionary"]).to(runtime.device)
        with metered(runtime.device) as cost:
            encoded = d.with_encoder(settings.pop("kind"), source, job.step.config["seed"], **settings)
        cost.write(job.out, before=job.inputs["dictionary"])
        save(encoded.with_card(step=job.step.name), job.out / "dictionary")
        yield job
    progress(len(jobs), len(jobs), "encoders")

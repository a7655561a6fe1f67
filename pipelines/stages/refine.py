"""Stage `refine`: refines the decoder of trained dictionaries on the training split only (`sae.refinement`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pipelines.steps.cost import metered
from pipelines.steps.source_steps import open_step
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.files import load, save
from sae.refinement import RefineConfig, refined

VERSION = 3


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``dictionary/`` into every job's directory."""
    source = open_step(jobs[0].step.inputs["source"], jobs[0].inputs["source"], runtime.device)
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "dictionaries")
        config = RefineConfig(**job.step.config["refine"])
        start = load(job.inputs["dictionary"]).to(runtime.device)
        with torch.no_grad(), metered(runtime.device) as cost:
            d = refined(start, source, config, job.step.config["seed"])
        cost.write(job.out, before=job.inputs["dictionary"])
        save(d.with_card(**{**d.card, "step": job.step.name}), job.out / "dictionary")
        yield job
    progress(len(jobs), len(jobs), "dictionaries")

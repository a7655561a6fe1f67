"""Stage `encode`: other encoders for dictionaries that are there, fitted on training rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pipelines.sources import open_source
from pipelines.step import Job, Runtime, Tell
from sae.encoder import EncoderConfig
from sae.files import load, save
from sae.kinds import config_class

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``dictionary/``, the same directions read otherwise, in every job's directory."""
    source = open_source(jobs[0].inputs["source"], runtime.device)
    for i, job in enumerate(jobs):
        tell(i, len(jobs), "encoders")
        settings = job.step.config["encoder"]
        config = config_class("sae.encoders", settings["kind"])(**settings)
        assert isinstance(config, EncoderConfig)
        d = load(job.inputs["dictionary"]).to(runtime.device)
        with torch.no_grad():
            read = config.fit(d, source, job.step.config["seed"])
        save(read.with_card(**{**d.card, "encoder": dict(settings), "step": job.step.name}), job.out / "dictionary")
        yield job
    tell(len(jobs), len(jobs), "encoders")

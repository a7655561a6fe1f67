"""Stage `score`: computes every metric for every dictionary of a source, on held-out activations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.steps.source_steps import open_step, refuse_non_finite
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.dictionary import Dictionary
from sae.files import load
from sae.metric import Case, Evidence, MetricConfig, gather_evidence, scores_of
from sae.numerics.atomic_write import write_atomically
from sae.registry import config_class

VERSION = 7


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``scores.json`` and ``vectors.safetensors`` into every job's directory.

    The evidence is gathered once; what a metric computes from it alone is shared by all dictionaries.
    """
    directory, config = jobs[0].inputs["source"], jobs[0].step.config
    source = open_step(jobs[0].step.inputs["source"], directory, runtime.device)
    evidence = gather_evidence(source, config["n_rows"])
    for batch in (evidence.choose, evidence.test):
        refuse_non_finite(batch, directory)
    metrics = [_metric(settings) for settings in config["metrics"]]
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "dictionaries")
        _score(job, load(job.inputs["dictionary"]), evidence, metrics)
        yield job
    progress(len(jobs), len(jobs), "dictionaries")


def _metric(settings: Mapping[str, Any]) -> MetricConfig:
    metric = config_class("metrics", settings["kind"])(**settings)
    assert isinstance(metric, MetricConfig)
    return metric


def _score(job: Job, d: Dictionary, evidence: Evidence, metrics: Sequence[MetricConfig]) -> None:
    scores = scores_of(metrics, Case(d, evidence))
    scalars = {name: value if math.isfinite(value) else None for name, value in scores.scalars.items()}
    row = dict(job.step.config["row"])
    row["n_latents"] = (
        row["n_latents"] or d.n_latents
    )  # as configured: refinement drops a different number of latents for every seed
    _write(job.out, {"row": row, "scores": scalars}, scores.vectors)


def _write(out: Path, scores: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "vectors.safetensors", save({name: v.cpu().contiguous() for name, v in vectors.items()}))
    write_atomically(out / "scores.json", (json.dumps(scores, indent=1) + "\n").encode())

"""Stage `score`: computes every metric for every dictionary of a source, on held-out activations.

Of several processes each scores some of the dictionaries. A dictionary that is too large for one device is divided over
all of them (:mod:`sae.dictionaries._over_processes`) and scored by the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.steps.source_steps import open_step, refuse_non_finite
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.dictionaries._over_processes import answer, is_divisible, over_processes, own_latents
from sae.dictionary import Dictionary
from sae.files import load
from sae.files.native import stored_dictionary
from sae.metric import Case, Evidence, MetricConfig, gather_evidence, scores_of
from sae.numerics.atomic_write import write_atomically
from sae.numerics.memory import memory_of
from sae.registry import config_class

VERSION = 7


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``scores.json`` and ``vectors.safetensors`` into every job's directory.

    The evidence is gathered once; what a metric computes from it alone is shared by all dictionaries.
    """
    if runtime.processes.size > 1:
        yield from _run_together(jobs, runtime, progress)
        return
    evidence, metrics = _evidence(jobs[0], runtime), _metrics(jobs[0])
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "dictionaries")
        _score(job, load(job.inputs["dictionary"]), evidence, metrics)
        yield job
    progress(len(jobs), len(jobs), "dictionaries")


def _run_together(jobs: Sequence[Job], runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """:func:`run` by several processes; the first yields the jobs."""
    processes, metrics, is_large = runtime.processes, _metrics(jobs[0]), _are_large(jobs, runtime)
    small, large = ([job for job, flag in zip(jobs, is_large, strict=True) if flag == of] for of in (False, True))
    own = small[processes.rank :: processes.size]
    evidence = _evidence(jobs[0], runtime) if own or processes.is_first else None
    for i, job in enumerate(own):
        assert evidence is not None
        progress(min(i * processes.size, len(small)), len(jobs), "dictionaries")
        _score(job, load(job.inputs["dictionary"]), evidence, metrics)
    processes.wait_for_all()
    if not processes.is_first:
        for job in large:
            part, n_latents = _own_part(job, runtime)
            answer(part, n_latents, processes)
        return
    assert evidence is not None
    yield from small
    for i, job in enumerate(large):
        progress(len(small) + i, len(jobs), "dictionaries")
        part, _ = _own_part(job, runtime)
        with over_processes(load(job.inputs["dictionary"]), part, processes) as divided:
            _score(job, divided, evidence, metrics)
        yield job
    progress(len(jobs), len(jobs), "dictionaries")


def _are_large(jobs: Sequence[Job], runtime: Runtime) -> list[bool]:
    """Which dictionaries are divided: those whose weights take more than half of a device. The first process
    decides."""
    room = memory_of(runtime.device) // 2
    found = [stored_dictionary(job.inputs["dictionary"]) for job in jobs]
    large = [each is not None and is_divisible(each.cls) and each.weights_bytes > room for each in found]
    return json.loads(runtime.processes.tell(json.dumps(large)))


def _own_part(job: Job, runtime: Runtime) -> tuple[Dictionary, int]:
    """The latents of this process, on its device, and the number of all."""
    stored = stored_dictionary(job.inputs["dictionary"])
    assert stored is not None
    part = stored.load_part(own_latents(stored.n_latents, runtime.processes))
    return part.to(runtime.device), stored.n_latents


def _evidence(job: Job, runtime: Runtime) -> Evidence:
    directory = job.inputs["source"]
    source = open_step(job.step.inputs["source"], directory, runtime.device)
    evidence = gather_evidence(source, job.step.config["n_rows"])
    for batch in (evidence.choose, evidence.test):
        refuse_non_finite(batch, directory)
    return evidence


def _metrics(job: Job) -> list[MetricConfig]:
    return [_metric(settings) for settings in job.step.config["metrics"]]


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

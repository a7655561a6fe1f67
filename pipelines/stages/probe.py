"""Stage `probe`: a probe study of the activations, or of a dictionary and its untrained control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.steps.step import Job, Runtime, StageProgress
from sae.files import load
from sae.probing import ProbeExamples, ProbeResult, StudySettings, study, write_results

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``probes.csv`` into every job's directory: one row per probe, task, condition and sample of examples."""
    files = {name: jobs[0].inputs["examples"] / f"{name}.safetensors" for name in ("train", "test", "shift")}
    parts = {name: ProbeExamples.load(file) for name, file in files.items() if file.is_file()}
    settings, results = StudySettings(**jobs[0].step.config["study"]), list[ProbeResult]()
    for i, job in enumerate(jobs):
        results.clear()
        d = load(job.inputs["dictionary"]) if "dictionary" in job.inputs else None
        for n, task_results in enumerate(study(settings, parts["train"], parts["test"], d, parts.get("shift"))):
            results += task_results
            progress(i, len(jobs), "dictionaries", tasks=n + 1)
        write_results(results, job.out / "probes.csv")
        yield job
    progress(len(jobs), len(jobs), "dictionaries")

"""Source steps: filled by `SourceConfig.prepare`, opened from the settings in their manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.steps.checksums import record_files, remove_damaged
from pipelines.steps.manifest import MANIFEST, read_manifest
from pipelines.steps.step import Job, Runtime, StageProgress, Step
from sae.numerics.atomic_write import link_or_copy
from sae.registry import UserError, config_class
from sae.source import LEFT_OUT, MODEL, Batch, ModelSettings, Source, SourceConfig


def prepare(jobs: Sequence[Job], runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Prepares every source in its job's directory. What a killed run left there is kept where it is undamaged."""
    for job in jobs:
        begin(job, runtime)
        if MODEL in job.inputs:
            _link_model(job.inputs[MODEL], job.out / MODEL)

    def report(done: int, total: int, unit: str) -> None:
        for job in jobs:
            record_files(job.out)
        progress(done, total, unit)

    sources = [(settings(job.step.config["source"]), job.out) for job in jobs]
    type(sources[0][0]).prepare_together(sources, report, runtime.device)
    for job in jobs:
        record_files(job.out)
    yield from jobs


def begin(job: Job, runtime: Runtime) -> None:
    """Removes from a job's directory what a killed run left damaged there."""
    (job.out / MANIFEST).unlink(missing_ok=True)  # of a run that was killed just before renaming the folder
    if gone := remove_damaged(job.out):
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        runtime.note(f"{job.out / gone[0]}{more}: damaged or without a checksum; made again")


def _link_model(model: Path, to: Path) -> None:
    """Puts a finished step's model into the folder of a source."""
    to.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.name != MANIFEST and not (to / file.name).is_file():
            link_or_copy(file, to / file.name)


def model_step_config(source: SourceConfig, model: ModelSettings) -> dict[str, Any]:
    """The config, without the files, of the step that trains the model of a source."""
    return {"kind": source.model_dump()["kind"], "model": model.model_dump(mode="json")}


def model_settings(config: Mapping[str, Any]) -> ModelSettings:
    """The settings of the model that a step of this config trains."""
    source = config_class("sources", config["kind"])
    assert issubclass(source, SourceConfig) and source.trains is not None
    return source.trains(**config["model"])


def open_source(directory: Path, device: str) -> Source:
    """The source in the directory of a finished step."""
    return settings(_table(directory)).open(directory, device)


def open_step(step: Step, directory: Path, device: str) -> Source:
    """The source of a finished step, opened from the settings of the step in its directory."""
    return settings(step.config["source"]).open(directory, device)


def open_steps(steps: Sequence[tuple[Step, Path]], device: str) -> list[Source]:
    """The sources of finished steps of one group, to be read at the same steps."""
    sources = [(settings(step.config["source"]), directory) for step, directory in steps]
    return type(sources[0][0]).open_together(sources, device)


def kind_of(directory: Path) -> str:
    """The kind of the source in the directory of a finished step."""
    return _table(directory)["kind"]


def nonlinear(directory: Path) -> str:
    """Why the features of a source are not directions, by the directory of its finished step; empty where they are."""
    return settings(_table(directory)).nonlinear


def left_out(directory: Path) -> dict[str, Any]:
    """The entry of a card on rows that a source leaves out because of their norm; empty where it leaves out none."""
    file = directory / "source.json"
    entry = json.loads(file.read_text(encoding="utf-8")).get(LEFT_OUT) if file.is_file() else None
    return {} if entry is None else {LEFT_OUT: entry}


def _table(directory: Path) -> dict[str, Any]:
    return read_manifest(directory)["config"]["source"]


def settings(table: Mapping[str, Any]) -> SourceConfig:
    """The settings of a source from the ``source`` table of its step's config."""
    config = config_class("sources", table["kind"])(**table)
    assert isinstance(config, SourceConfig)
    return config


def refuse_non_finite(batch: Batch, directory: Path) -> None:
    """Raises `UserError` where activations or targets are NaN or infinite."""
    rows = int((~torch.isfinite(batch.acts) | ~torch.isfinite(batch.wanted)).any(-1).sum())
    if rows:
        raise UserError(
            f"{directory}: {rows} of {len(batch.acts)} activations hold NaN or infinite values; "
            "check the source, or store it in float32"
        )

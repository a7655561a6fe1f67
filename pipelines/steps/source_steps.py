"""Source steps: filled by the settings' own `prepare`, opened again from the manifest that they left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.steps.step import Job, Runtime, Tell
from sae.registry import UserError, config_class
from sae.source import Batch, Source, SourceConfig


def prepare(jobs: Sequence[Job], runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Fills the directory of every source."""
    for job in jobs:
        config = settings(job.step.config["source"])

        def progress(done: int, total: int, unit: str) -> None:
            tell(done, total, unit)

        config.prepare(job.out, progress, runtime.device)
        yield job


def open_source(directory: Path, device: str) -> Source:
    """The source in the directory of a finished step."""
    return settings(_table(directory)).open(directory, device)


def kind_of(directory: Path) -> str:
    """The kind of the source in the directory of a finished step."""
    return _table(directory)["kind"]


def nonlinear(directory: Path) -> str:
    """Why the features of a source are no directions, from the directory of its finished step; empty where they are."""
    return settings(_table(directory)).nonlinear


def _table(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "manifest.json").read_text())["config"]["source"]


def settings(table: Mapping[str, Any]) -> SourceConfig:
    """The settings of a source, from what its step's config holds."""
    config = config_class("sae.sources", table["kind"])(**table)
    assert isinstance(config, SourceConfig)
    return config


def refuse_non_finite(batch: Batch, directory: Path) -> None:
    """A ``ValueError`` of one line where activations are NaN or infinite."""
    rows = int((~torch.isfinite(batch.acts) | ~torch.isfinite(batch.wanted)).any(-1).sum())
    if rows:
        raise UserError(
            f"{directory}: {rows} of {len(batch.acts)} rows of activations hold NaN or infinite values; "
            "check the source, or store it in float32"
        )

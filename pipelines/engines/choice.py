"""Which engine, how many workers, and what they ask of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae.registry import UserError, unknown

if TYPE_CHECKING:
    from pipelines.engines.engine import WorkerEngine

ENGINES = ("local", "slurm", "ray")
"""The engines by name."""


@dataclass(frozen=True)
class Workers:
    """By whom a run is done."""

    n: int = 1
    """The number of workers."""
    on: str = "local"
    """The engine: ``local``, ``slurm`` or ``ray``."""
    slurm: Mapping[str, str] = field(default_factory=dict[str, str])
    """What a job asks of Slurm."""
    address: str | None = None
    """The address of a Ray cluster; one on this machine is started where unset."""
    gpus_per_step: float | None = None
    """GPUs of a Ray task that trains or runs a model; 1 where the cluster has GPUs and this is unset."""
    detach: bool = False
    """Whether the command ends when the jobs are in Slurm's queue."""

    def __post_init__(self) -> None:
        if self.on not in ENGINES:
            raise UserError(f"--on: {unknown(self.on, ENGINES, 'engine')}")
        if self.n < 1:
            raise UserError(f"--workers {self.n}: give 1 or more")
        for name, given, engine in (
            ("--slurm", bool(self.slurm), "slurm"),
            ("--detach", self.detach, "slurm"),
            ("--address", self.address is not None, "ray"),
            ("--gpus-per-step", self.gpus_per_step is not None, "ray"),
        ):
            if given and self.on != engine:
                raise UserError(f"{name}: is for --on {engine}; leave it out, or add --on {engine}")
        if self.gpus_per_step is not None and not self.gpus_per_step >= 0:
            raise UserError(f"--gpus-per-step {self.gpus_per_step:g}: give 0 or more")

    @property
    def are_this_process(self) -> bool:
        """Whether the work is done by this process, as without workers."""
        return self.on == "local" and self.n == 1

    def engine(self) -> WorkerEngine:
        """The engine. Raises `UserError` where what it needs is not installed."""
        if self.on == "slurm":
            from pipelines.engines.slurm import SlurmEngine

            return SlurmEngine(self.slurm, self.detach)
        if self.on == "ray":
            from pipelines.engines.ray import RayEngine

            return RayEngine(self.address, self.gpus_per_step)
        from pipelines.engines.local import LocalEngine

        return LocalEngine()

"""Options that several commands share, and how a command reads its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from pipelines.config.config import Config
    from pipelines.config.toml_tables import Overrides
    from pipelines.engines.choice import Workers
    from pipelines.steps.step import Step

ConfigName = Annotated[Path, Parameter(help="A TOML file, or the name of a config that `sae configs` lists.")]
Set = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative=(),
        help="A value in place of the file's, such as train.steps=200; may be given several times.",
    ),
]
Out = Annotated[Path | None, Parameter(name="--out", help="The folder of all steps, in place of runtime.out.")]
Tier = Annotated[
    str, Parameter(name="--tier", help="Use the values under [tiers.NAME]: fast, full (the file as it is), or another.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class WorkerOptions:
    """Options by which several workers do a run."""

    workers: Annotated[
        int | None,
        Parameter(name="--workers", help="Workers among whom the steps are divided; runtime.workers where unset."),
    ] = None
    """The number of workers."""
    on: Annotated[
        str, Parameter(name="--on", help="Where workers run: local, this machine; slurm or ray, a cluster.")
    ] = "local"
    """The engine that starts them."""
    slurm: Annotated[
        str | None,
        Parameter(name="--slurm", help="What each job asks of Slurm, such as partition=gpu,gpus=1,cpus=8,time=8h."),
    ] = None
    """What a job asks of Slurm."""
    detach: Annotated[
        bool, Parameter(name="--detach", negative=(), help="End when the jobs are in Slurm's queue; they go on.")
    ] = False
    """Whether to wait for Slurm's jobs."""
    address: Annotated[
        str | None,
        Parameter(name="--address", help="The address of a Ray cluster, such as auto; a local one where unset."),
    ] = None
    """The address of a Ray cluster."""
    gpus_per_step: Annotated[
        float | None,
        Parameter(name="--gpus-per-step", help="GPUs of a Ray task that trains or runs a model, such as 1 or 0.5."),
    ] = None
    """GPUs of a Ray task that needs one."""

    def start_ahead(self) -> None:
        """Starts workers of this machine, which load the libraries while this process loads them too and plans."""
        n = self.workers or 1
        if self.on == "local" and n > 1:
            from pipelines.engines.process import chosen_threads, cores, start_ahead

            start_ahead(min(n, cores()), chosen_threads() or max(1, cores() // n))

    def of(self, settings: Config) -> Workers:
        """The workers of a config. Raises `UserError` where the options do not fit together."""
        from pipelines.engines.choice import Workers
        from pipelines.engines.slurm import read_slurm

        n = settings.runtime.workers if self.workers is None else self.workers
        slurm = {} if self.slurm is None else read_slurm(self.slurm)
        return Workers(n, self.on, slurm, self.address, self.gpus_per_step, self.detach)


def read_settings(
    config: Path | Mapping[str, Any], overrides: Overrides | None, tier: str, out: Path | None = None
) -> tuple[Config, Path]:
    """The config, a file or its tables, in one of its tiers, and the folder that holds its steps; large files that have
    not changed since a run there are not read again, and ``train.precision = "auto"`` is what it was there."""
    from pipelines.config.config import read_config, settings_of_table
    from pipelines.config.shipped import find_config
    from pipelines.precision import choose_precision
    from pipelines.steps.known_hashes import load_known

    if isinstance(config, Mapping):
        settings = settings_of_table(config, overrides or (), tier)
    else:
        settings = read_config(find_config(config), overrides or (), tier)
    root = out or settings.runtime.out
    load_known(root)
    return choose_precision(settings, root), root


def read_plan(
    file: Path, overrides: Sequence[str] | None, out: Path | None, tier: str
) -> tuple[Config, list[Step], Path]:
    """The config, its steps and the folder that holds them; the steps are those of `sae bench` for a tier of a suite,
    and those of `sae run` for the file as it is."""
    from pipelines.config.config import FULL
    from pipelines.plan import plan

    settings, root = read_settings(file, overrides, tier, out)
    return settings, plan(settings, None if tier == FULL else tier), root

"""The tables of a config file as it is written, each a frozen model; unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, field_validator

from pipelines.config.toml_tables import Table
from sae.probing import StudySettings, TaskSettings
from sae.registry import LocalPath, Settings, UserError

_MOST_NAME_BYTES = 200
"""File systems allow 255; the name of a run is extended to names of tiers, pages and temporary files."""


def _as_list(given: Any) -> Any:
    """Accepts ``[source]`` for a list of one."""
    return [given] if isinstance(given, dict) else given


def _as_tables(given: Any) -> Any:
    """Accepts a kind's name for ``{kind = ...}``."""
    if not isinstance(given, list):
        return given
    return [{"kind": entry} if isinstance(entry, str) else entry for entry in cast(list[Any], given)]


def _as_encoders(given: Any) -> Any:
    """Accepts one encoder for a list of one."""
    return _as_tables([given] if isinstance(given, str | dict) else given)


Repeated = Annotated[tuple[Table, ...], BeforeValidator(_as_list)]


Kinds = Annotated[tuple[Table, ...], BeforeValidator(_as_tables)]


Encoders = Annotated[tuple[Table, ...], BeforeValidator(_as_encoders)]


class BaselineTable(Settings):
    """``[baselines]``: classical methods and controls."""

    kinds: Kinds = ()
    """The methods: names, or tables with settings."""
    seeds: Any = None
    """Seeds of the methods that depend on one; those of ``train.seeds`` where unset."""


class ScoreTable(Settings):
    """``[score]``: what every dictionary is scored on, and by which metrics."""

    n_rows: int = Field(default=20_000, ge=4)
    """Held-out samples: half choose thresholds and fit probes, half are scored."""
    metrics: Kinds | None = None
    """Families of metrics; all that the source can serve where unset."""


class ReportTable(Settings):
    """``[report]``: how the report ranks dictionaries."""

    best_by: str = "mcc"
    """The score that names the best dictionary."""


class BenchTable(Settings):
    """``[bench]``: how `sae bench` compares sweeps."""

    l0: float | None = Field(default=None, gt=0)
    """The L0 at which sweeps are compared; the true L0 of each source where unset."""


class Published(Settings):
    """``[[published]]``: one row of a paper, shown next to our rows and never mixed with them."""

    method: str
    """The method, as the paper calls it."""
    source: str
    """Where it was published."""
    setting: str = ""
    """What was run."""
    scores: dict[str, float]
    """Its scores, by the names of ours."""
    spread: dict[str, float] = Field(default_factory=dict)
    """Their spread, for those that the paper gives one of."""


class ProbeTable(StudySettings):
    """``[probe]``: a probe study of the source and of every dictionary."""

    tasks: TaskSettings = TaskSettings()
    """The properties that are probed."""


class RuntimeTable(Settings):
    """``[runtime]``: how and where the work is done. Nothing of it is part of a step's key."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` takes a GPU where there is one."""
    model_device: str | None = None
    """Where the model of a source runs: a device other than `device`, or ``auto`` for all GPUs, over which its layers
    are spread; `device` where unset."""
    threads: int | None = Field(default=None, gt=0)
    """Threads of torch; its own choice where unset."""
    workers: int = Field(default=1, ge=1)
    """Workers among whom `sae run` and `sae bench` divide the steps, as with `--workers`; 1 is the command itself."""
    out: LocalPath = Path("runs")
    """The folder of all steps."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Seconds between two checkpoints of training."""
    sinks: tuple[Literal["trackio", "wandb"], ...] = ()
    """Experiment trackers that the training log is also sent to."""


class Tables(Settings):
    """The file as it is written, before sweeps are expanded and kinds are checked."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    """The name of the run, by default that of its file: its link in the output folder. At most 200 bytes long, since it
    is part of file names."""
    title: str = ""
    """The title of the report; the name where unset."""
    description: str = ""
    """A paragraph below the title."""
    source: Repeated = Field(min_length=1)
    """``[source]``, or several ``[[source]]``: where activations come from."""
    dictionary: Repeated = ()
    """``[dictionary]``, or several ``[[dictionary]]``; ``refine = true``, or a table, adds a refined copy of each."""
    encoder: Encoders = ()
    """Encoders that every dictionary is scored with; its own where unset."""
    train: Table = Field(default_factory=dict)
    """Settings of training, and ``seeds``."""
    baselines: BaselineTable = BaselineTable()
    """Classical methods and controls."""
    score: ScoreTable = ScoreTable()
    """What dictionaries are scored on."""
    probe: ProbeTable | None = None
    """A probe study."""
    report: ReportTable = ReportTable()
    """How the report ranks dictionaries."""
    bench: BenchTable = BenchTable()
    """How `sae bench` compares sweeps."""
    published: tuple[Published, ...] = ()
    """Rows of papers."""
    runtime: RuntimeTable = RuntimeTable()
    """How and where the work is done."""
    ask: dict[str, Table] = Field(default_factory=dict)
    """Settings of the questions of `sae ask`, under ``[ask.QUESTION]``."""
    tiers: dict[str, Table] = Field(default_factory=dict)
    """Under ``[tiers.NAME]``, values that replace those of the same keys when that tier is chosen."""

    @field_validator("name")
    @classmethod
    def _fits_in_file_names(cls, name: str) -> str:
        if len(name.encode()) > _MOST_NAME_BYTES:
            raise UserError(f"{len(name.encode())} bytes long; shorten it to {_MOST_NAME_BYTES} or fewer")
        return name

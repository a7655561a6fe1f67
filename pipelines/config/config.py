"""A run as data: a TOML file, overrides through the same validator, lists in place of a value as sweeps.

Every table is checked by the frozen model of the class that it builds, so that a mistake is found before any
work starts and is told in one line: the field, the value, the remedy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BeforeValidator, Field

from pipelines.config.toml_tables import Table, build, expand, merge_tables, override
from sae.architecture import DictionaryConfig
from sae.baseline import BaselineConfig
from sae.encoder import EncoderConfig
from sae.metric import MetricConfig
from sae.probing import StudySettings, TaskSettings
from sae.refinement import RefineConfig
from sae.registry import MissingFileError, Settings, UserError, config_class, configurable, unknown
from sae.source import SourceConfig
from sae.training.config import TrainConfig

_C = TypeVar("_C", bound=Settings)


def _as_list(given: Any) -> Any:
    """``[source]`` is ``[[source]]`` given once."""
    return [given] if isinstance(given, dict) else given


def _as_tables(given: Any) -> Any:
    """A kind alone is short for ``{kind = ...}``."""
    if not isinstance(given, list):
        return given
    return [{"kind": entry} if isinstance(entry, str) else entry for entry in cast(list[Any], given)]


def _as_encoders(given: Any) -> Any:
    """One encoder is a list of one."""
    return _as_tables([given] if isinstance(given, str | dict) else given)


ASIDE = ("runtime", "ask", "bench", "published", "tiers")
"""Tables of the file on which no dictionary and no score of it depends."""

Repeated = Annotated[tuple[Table, ...], BeforeValidator(_as_list)]
Kinds = Annotated[tuple[Table, ...], BeforeValidator(_as_tables)]
Encoders = Annotated[tuple[Table, ...], BeforeValidator(_as_encoders)]


class BaselineTable(Settings):
    """``[baselines]``: classical methods and controls; `seeds` are those of training where unset."""

    kinds: Kinds = ()
    seeds: Any = None


class ScoreTable(Settings):
    """``[score]``: held-out rows, and the metrics; unset means all that a source can serve."""

    n_rows: int = Field(default=20_000, ge=4)
    metrics: Kinds | None = None


class ReportTable(Settings):
    """``[report]``: the score that names the best dictionary."""

    best_by: str = "mcc"


class BenchTable(Settings):
    """``[bench]``: the L0 at which sweeps are compared; unset means the true one of each source."""

    l0: float | None = Field(default=None, gt=0)


class Published(Settings):
    """``[[published]]``: a row of a paper, to be shown beside ours and never among them: the method as it is called
    there, where it stands, what was run, and its scores by our names, with their spread where one is given."""

    method: str
    source: str
    setting: str = ""
    scores: dict[str, float]
    spread: dict[str, float] = Field(default_factory=dict)


class ProbeTable(StudySettings):
    """``[probe]``: a probe study of the source and of every dictionary; `tasks` say what is probed."""

    tasks: TaskSettings = TaskSettings()


class RuntimeTable(Settings):
    """``[runtime]``: how and where the work is done. None of it is part of a step's key."""

    device: str = "auto"
    threads: int | None = Field(default=None, gt=0)
    out: Path = Path("runs")
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    sinks: tuple[Literal["trackio", "wandb"], ...] = ()


class Tables(Settings):
    """The file as it is written; ``[[source]]`` and ``[[dictionary]]`` may be given several times. A dictionary's
    ``refine = {...}`` (or true) adds its refinement; `encoder` lists what every dictionary is read by. What stands
    under ``[tiers.NAME]`` takes the place of the same keys where that tier is asked for; under ``[ask.QUESTION]`` are
    settings of `sae ask`."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    title: str = ""
    description: str = ""
    source: Repeated = Field(min_length=1)
    dictionary: Repeated = ()
    encoder: Encoders = ()
    train: Table = Field(default_factory=dict)
    baselines: BaselineTable = BaselineTable()
    score: ScoreTable = ScoreTable()
    probe: ProbeTable | None = None
    report: ReportTable = ReportTable()
    bench: BenchTable = BenchTable()
    published: tuple[Published, ...] = ()
    runtime: RuntimeTable = RuntimeTable()
    ask: dict[str, Table] = Field(default_factory=dict)
    tiers: dict[str, Table] = Field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A run with every sweep laid out. `given` is what the user wrote, without what changes no number."""

    name: str
    title: str
    description: str
    sources: tuple[SourceConfig, ...]
    dictionaries: tuple[DictionaryConfig, ...]
    refinements: tuple[tuple[DictionaryConfig, RefineConfig], ...]
    encoders: tuple[EncoderConfig, ...]
    trainings: tuple[TrainConfig, ...]
    seeds: tuple[int, ...]
    baselines: tuple[BaselineConfig, ...]
    baseline_seeds: tuple[int, ...]
    n_rows: int
    metrics: tuple[MetricConfig, ...] | None
    probe: ProbeTable | None
    best_by: str
    bench: BenchTable
    published: tuple[Published, ...]
    runtime: RuntimeTable
    ask: Mapping[str, Table]
    given: Mapping[str, Any]


FULL = "full"
"""The tier of a file as it is written."""


def read_config(file: Path, overrides: Sequence[str] = (), tier: str = FULL) -> Config:
    """The run that a TOML file describes, in one of its tiers, with ``key.path=value`` overrides.

    Raises ``FileNotFoundError`` or ``ValueError``, each of one line.
    """
    table = read_table(file)
    given = table.get("tiers")
    tiers = cast(Mapping[str, Any], given) if isinstance(given, dict) else {}
    if tier != FULL and not isinstance(tiers.get(tier), dict):
        raise UserError(f"{file}: {unknown(tier, [FULL, *tiers], 'tier')}")
    return parse(override(merge_tables(table, tiers.get(tier, {})), overrides))


def read_table(file: Path) -> Table:
    """What stands in a TOML file. Raises ``FileNotFoundError`` or ``ValueError``, each of one line."""
    if not file.is_file():
        raise MissingFileError(f"{file}: there is no such config file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as TOML: {error}") from None


def parse(table: Mapping[str, Any]) -> Config:
    """The run that a table describes. Raises ``ValueError`` of one line."""
    tables = build(Tables, table, "")
    plain = [{name: value for name, value in t.items() if name != "refine"} for t in tables.dictionary]
    dictionaries = _sweep("sae.dictionaries", DictionaryConfig, plain, "dictionary")
    baselines = _baselines(tables.baselines.kinds, widths=list(dict.fromkeys(d.n_latents for d in dictionaries)))
    if not dictionaries and not baselines:
        raise UserError("dictionary is missing: give a [dictionary] table, or kinds under [baselines]")
    training = dict(tables.train)
    seeds = _seeds(training.pop("seeds", 0), "train.seeds")
    own = tables.baselines.seeds
    metrics = tables.score.metrics
    return Config(
        name=tables.name,
        title=tables.title or tables.name,
        description=tables.description,
        sources=_sweep("sae.sources", SourceConfig, tables.source, "source"),
        dictionaries=dictionaries,
        refinements=_refinements(tables.dictionary),
        encoders=_sweep("sae.encoders", EncoderConfig, tables.encoder, "encoder"),
        trainings=tuple(build(TrainConfig, t, "train") for t in expand(TrainConfig, training, "train")),
        seeds=seeds,
        baselines=baselines,
        baseline_seeds=seeds if own is None else _seeds(own, "baselines.seeds"),
        n_rows=tables.score.n_rows,
        metrics=None if metrics is None else tuple(_metric(t) for t in metrics),
        probe=tables.probe,
        best_by=tables.report.best_by,
        bench=tables.bench,
        published=tables.published,
        runtime=tables.runtime,
        ask=tables.ask,
        given={key: value for key, value in table.items() if key not in ASIDE},
    )


def _sweep(package: str, noun: type[_C], tables: Sequence[Table], where: str) -> tuple[_C, ...]:
    """Every setting of every table, checked by the class of its kind."""
    found: list[_C] = []
    for table in tables:
        cls = _class(package, noun, table, where)
        built = (build(cls, settings, where) for settings in expand(cls, table, where))
        found += [settings for settings in built if settings not in found]
    return tuple(found)


def _refinements(tables: Sequence[Table]) -> tuple[tuple[DictionaryConfig, RefineConfig], ...]:
    """The dictionaries whose table asks for it, each with every setting of its ``refine``."""
    found: list[tuple[DictionaryConfig, RefineConfig]] = []
    for table in tables:
        asked = {} if table.get("refine") is True else table.get("refine", False)
        if asked is False:
            continue
        if not isinstance(asked, dict):
            raise UserError(f"dictionary.refine = {asked!r}: give true, or a table of settings such as {{steps = 60}}")
        plain = {name: value for name, value in table.items() if name != "refine"}
        every = expand(RefineConfig, cast(Table, asked), "dictionary.refine")
        settings = [build(RefineConfig, t, "dictionary.refine") for t in every]
        own = _sweep("sae.dictionaries", DictionaryConfig, [plain], "dictionary")
        found += [(d, s) for d in own for s in settings if (d, s) not in found]
    return tuple(found)


def _baselines(tables: Sequence[Table], widths: list[int]) -> tuple[BaselineConfig, ...]:
    """The methods; one that takes a number of latents and is given none is run at each width in `widths`."""
    filled: list[Table] = []
    for table in tables:
        fields = _class("sae.baselines", BaselineConfig, table, "baselines.kinds").model_fields
        open_width = "n_latents" in fields and "n_latents" not in table and widths
        filled.append({**table, "n_latents": widths} if open_width else table)
    return _sweep("sae.baselines", BaselineConfig, filled, "baselines.kinds")


def _metric(table: Table) -> MetricConfig:
    return build(_class("sae.metrics", MetricConfig, table, "score.metrics"), table, "score.metrics")


def _class(package: str, noun: type[_C], table: Table, where: str) -> type[_C]:
    """The class that a table's kind names."""
    kind = table.get("kind")
    if not isinstance(kind, str):
        problem = "is missing" if kind is None else f"= {kind!r} is not one word"
        raise UserError(f"{where}: kind {problem}; choose from {', '.join(configurable(package))}")
    try:
        cls = config_class(package, kind)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    assert issubclass(cls, noun)
    return cls


def _seeds(given: Any, where: str) -> tuple[int, ...]:
    seeds = cast(Sequence[Any], given if isinstance(given, list | tuple) else [given])
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{where} = {given!r}: give a whole number or a list of them")
    return tuple(dict.fromkeys(seeds))

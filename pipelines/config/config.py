"""A run as data: a TOML file, overrides through the same validator, lists in place of a value as sweeps.

Every table is checked by the frozen model of the class that it builds, so that a mistake is found before any
work starts and is reported in one line: the field, the value, the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, cast

from pipelines.config.precision import Shape
from pipelines.config.tables import BenchTable, ProbeTable, Published, RuntimeTable, Tables
from pipelines.config.toml_tables import (
    Overrides,
    Table,
    build,
    check_number,
    expand,
    load_toml,
    merge_tables,
    override,
)
from sae.architecture import DictionaryConfig
from sae.baseline import BaselineConfig
from sae.encoder import EncoderConfig
from sae.metric import MetricConfig
from sae.refinement import RefineConfig
from sae.registry import MissingFileError, Settings, UserError, config_class, configurable, unknown
from sae.source import SourceConfig
from sae.training.config import TrainConfig
from sae.training.engine import Precision

_C = TypeVar("_C", bound=Settings)


ASIDE = ("runtime", "ask", "bench", "published", "tiers")
"""Tables of the file on which no dictionary and no score depends."""


@dataclass(frozen=True)
class Config:
    """A run with every sweep expanded."""

    name: str
    """The name of the run."""
    title: str
    """The title of its pages."""
    description: str
    """The paragraph below the title."""
    sources: tuple[SourceConfig, ...]
    """Every source of the sweep."""
    dictionaries: tuple[DictionaryConfig, ...]
    """Every dictionary to train."""
    refinements: tuple[tuple[DictionaryConfig, RefineConfig], ...]
    """The dictionaries to refine, each with the settings of its refinement."""
    encoders: tuple[EncoderConfig, ...]
    """Encoders that every dictionary is scored with; none means its own."""
    trainings: tuple[TrainConfig, ...]
    """Every setting of training."""
    seeds: tuple[int, ...]
    """Seeds of training."""
    baselines: tuple[BaselineConfig, ...]
    """Classical methods and controls."""
    baseline_seeds: tuple[int, ...]
    """Seeds of the baselines that depend on one."""
    n_rows: int
    """Held-out samples that dictionaries are scored on."""
    metrics: tuple[MetricConfig, ...] | None
    """Families of metrics; None means all that a source can serve."""
    probe: ProbeTable | None
    """A probe study."""
    best_by: str
    """The score that names the best dictionary."""
    bench: BenchTable
    """How `sae bench` compares sweeps."""
    published: tuple[Published, ...]
    """Rows of papers."""
    runtime: RuntimeTable
    """How and where the work is done."""
    ask: Mapping[str, Table]
    """Settings of the questions of `sae ask`."""
    given: Mapping[str, Any]
    """The user's tables, without those on which no number depends."""
    precisions: Mapping[Shape, Precision] = field(default_factory=dict)
    """What ``train.precision = "auto"`` took for each shape, see :mod:`pipelines.precision`."""

    def training_of(self, source: SourceConfig, dictionary: DictionaryConfig, training: TrainConfig) -> TrainConfig:
        """`training` with the precision that was taken for a dictionary on a source, where it is ``auto``."""
        if training.precision != "auto":
            return training
        taken = self.precisions[Shape.of(source, dictionary, training)]
        return training.model_copy(update={"precision": taken})


FULL = "full"
"""The tier of a file as it is written."""


def read_config(file: Path, overrides: Overrides = (), tier: str = FULL) -> Config:
    """The run that a TOML file describes, in one of its tiers, with overrides: ``key.path=value`` or a mapping.

    Without a name the run is called as the file.

    Raises `MissingFileError` or `UserError`.
    """
    name = re.sub(r"[^\w.-]", "-", file.stem)
    return settings_of_table({"name": name, **read_table(file)}, overrides, tier, str(file))


def settings_of_table(
    table: Mapping[str, Any], overrides: Overrides = (), tier: str = FULL, where: str = "config"
) -> Config:
    """The run that a table describes, in one of its tiers, with overrides; `where` names the table in messages.

    Raises `UserError`.
    """
    given = table.get("tiers")
    tiers = cast(Mapping[str, Any], given) if isinstance(given, dict) else {}
    if tier != FULL and not isinstance(tiers.get(tier), dict):
        raise UserError(f"{where}: {unknown(tier, [FULL, *tiers], 'tier')}")
    return parse(override(merge_tables(table, tiers.get(tier, {})), overrides))


def read_table(file: Path) -> Table:
    """The content of a TOML file. Raises `MissingFileError` or `UserError`."""
    if not file.is_file():
        raise MissingFileError(f"{file}: there is no such config file")
    try:
        return load_toml(file.read_text(encoding="utf-8-sig"))  # some editors begin files with a mark
    except RecursionError:
        raise UserError(f"{file}: lists or tables are nested too deeply; write them less nested") from None
    except ValueError as error:  # also a number of more digits than Python reads
        raise UserError(f"{file}: not readable as TOML: {error}") from None


def parse(table: Mapping[str, Any]) -> Config:
    """The run that a table describes. Raises `UserError`."""
    tables = build(Tables, table, "")
    plain = [{name: value for name, value in t.items() if name != "refine"} for t in tables.dictionary]
    dictionaries = _sweep("dictionaries", DictionaryConfig, plain, "dictionary")
    baselines = _baselines(tables.baselines.kinds, widths=list(dict.fromkeys(d.n_latents for d in dictionaries)))
    if not dictionaries and not baselines:
        raise UserError("dictionary is missing: give a [dictionary] table, or kinds under [baselines]")
    training = dict(tables.train)
    seeds = _seeds(training.pop("seeds", 0), "train.seeds")
    baseline_seeds = tables.baselines.seeds
    metrics = tables.score.metrics
    config = Config(
        name=tables.name,
        title=tables.title or tables.name,
        description=tables.description,
        sources=_sweep("sources", SourceConfig, tables.source, "source"),
        dictionaries=dictionaries,
        refinements=_refinements(tables.dictionary),
        encoders=_sweep("encoders", EncoderConfig, tables.encoder, "encoder"),
        trainings=tuple(build(TrainConfig, t, "train") for t in expand(TrainConfig, training, "train")),
        seeds=seeds,
        baselines=baselines,
        baseline_seeds=seeds if baseline_seeds is None else _seeds(baseline_seeds, "baselines.seeds"),
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
    _check_number_of_dictionaries(config)
    return config


def _check_number_of_dictionaries(config: Config) -> None:
    """Raises `UserError` where a run has too many dictionaries to be planned."""
    made = {
        "dictionary x train": (len(config.dictionaries) + len(config.refinements)) * len(config.trainings),
        "train.seeds": len(config.seeds),
    }
    others = {"source": len(config.sources), "encoder": max(len(config.encoders), 1)}
    check_number({**made, **others}, "dictionaries to score")
    fitted = {"baselines.kinds": len(config.baselines), "baselines.seeds": len(config.baseline_seeds)}
    check_number({**fitted, **others}, "baselines to score")


def _sweep(package: str, noun: type[_C], tables: Sequence[Table], where: str) -> tuple[_C, ...]:
    """Every setting of every table, validated by the config class of its kind."""
    found: dict[str, _C] = {}
    for table in tables:
        cls = _class(package, noun, table, where)
        built = (build(cls, settings, where) for settings in expand(cls, table, where))
        for settings in built:
            found.setdefault(settings.model_dump_json(), settings)
    return tuple(found.values())


def _refinements(tables: Sequence[Table]) -> tuple[tuple[DictionaryConfig, RefineConfig], ...]:
    """The dictionaries whose table has ``refine``, each with every setting of it."""
    found: dict[tuple[str, str], tuple[DictionaryConfig, RefineConfig]] = {}
    for table in tables:
        refine = {} if table.get("refine") is True else table.get("refine", False)
        if refine is False:
            continue
        if not isinstance(refine, dict):
            raise UserError(f"dictionary.refine = {refine!r}: give true, or a table of settings such as {{steps = 60}}")
        plain = {name: value for name, value in table.items() if name != "refine"}
        every = expand(RefineConfig, cast(Table, refine), "dictionary.refine")
        settings = [build(RefineConfig, t, "dictionary.refine") for t in every]
        own = _sweep("dictionaries", DictionaryConfig, [plain], "dictionary")
        for d, s in product(own, settings):
            found.setdefault((d.model_dump_json(), s.model_dump_json()), (d, s))
    return tuple(found.values())


def _baselines(tables: Sequence[Table], widths: list[int]) -> tuple[BaselineConfig, ...]:
    """The baselines; one that has a number of latents and is given none is run at each width in `widths`."""
    filled: list[Table] = []
    for table in tables:
        fields = _class("baselines", BaselineConfig, table, "baselines.kinds").model_fields
        open_width = "n_latents" in fields and "n_latents" not in table and widths
        filled.append({**table, "n_latents": widths} if open_width else table)
    return _sweep("baselines", BaselineConfig, filled, "baselines.kinds")


def _metric(table: Table) -> MetricConfig:
    return build(_class("metrics", MetricConfig, table, "score.metrics"), table, "score.metrics")


def _class(package: str, noun: type[_C], table: Table, where: str) -> type[_C]:
    """The config class that the kind of a table names."""
    kind = table.get("kind")
    if not isinstance(kind, str):
        problem = "is missing" if kind is None else f"= {kind!r} is not one word"
        raise UserError(f"{where}: kind {problem}; choose from {', '.join(configurable(package))}")
    try:
        cls = config_class(package, kind)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    assert issubclass(cls, noun)
    return cls


def _seeds(given: Any, where: str) -> tuple[int, ...]:
    seeds = cast(Sequence[Any], given if isinstance(given, list | tuple) else [given])
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{where} = {given!r}: give a whole number or a list of them")
    return tuple(dict.fromkeys(seeds))

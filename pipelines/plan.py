"""From a config to the steps that it asks for; whatever cannot work is refused here, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pipelines.config.config import Config, ProbeTable
from pipelines.config.names import labels_of
from pipelines.stages import bench, encode, examples, generate, probe, refine, report, score, stream, train
from pipelines.steps.step import Stage, Step
from pipelines.steps.store import sha256
from sae.baseline import BaselineConfig
from sae.metric import MetricConfig
from sae.probing.sources import other_files
from sae.registry import MissingFileError, Settings, UserError, configurable
from sae.source import SourceConfig

STAGES: dict[str, Stage] = {
    "generate": generate,
    "stream": stream,
    "train": train,
    "refine": refine,
    "encode": encode,
    "score": score,
    "examples": examples,
    "probe": probe,
    "report": report,
    "bench": bench,
}

_Row = dict[str, Any]
"""What identifies a dictionary in ``scores.csv``; None where a column does not apply."""


def plan(config: Config, tier: str | None = None) -> list[Step]:
    """The steps in the order of the work: sources, dictionaries, scores, and the report on them; where the tier of a
    suite is given, its comparison of methods in place of the report.

    A pure function of the config and of the content of the files that it names. Raises ``ValueError`` or
    ``FileNotFoundError`` of one line where a source cannot serve what is asked of it.
    """
    sources = [_source(source) for source in config.sources]
    labels = labels_of([s.model_dump(mode="json") for s in config.sources], skip={"seed"})
    work = [_work(config, *of) for of in zip(config.sources, sources, labels, strict=True)]
    rated = [each for on_one in work for each in on_one.rated]
    inputs = {f"source.{i}": step for i, step in enumerate(sources)}
    inputs |= {f"probes.{step.key}": step for on_one in work for step in on_one.aside if step.stage == "probe"}
    for i, each in enumerate(rated):
        inputs |= {f"train.{i}": each.dictionary, f"score.{i}": each.score}
        inputs |= {} if each.probe is None else {f"probe.{i}": each.probe}
    made = {step.name: step for on_one in work for step in on_one.made}
    order = sorted(made.values(), key=lambda step: list(STAGES).index(step.stage))
    scores = [each.score for each in rated]
    probed = [step for on_one in work for step in on_one.probed]
    last = _report(config, inputs) if tier is None else _bench(config, tier, inputs)
    return [*sources, *order, *scores, *probed, last]


@dataclass(frozen=True)
class _Rated:
    """A dictionary as one encoder reads it, and what is measured of it."""

    dictionary: Step
    score: Step
    probe: Step | None


@dataclass(frozen=True)
class _Work:
    """What is done on one source: dictionaries as they are made and as they are read, what is measured of each, and
    `aside` of them the examples for probes and the probes on the activations themselves."""

    made: list[Step]
    rated: list[_Rated]
    aside: list[Step]

    @property
    def probed(self) -> list[Step]:
        return [*self.aside, *(each.probe for each in self.rated if each.probe is not None)]


def _work(config: Config, settings: SourceConfig, source: Step, label: str) -> _Work:
    """The steps on one source, which the tables name `label`; a ``ValueError`` where it cannot serve them."""
    _check_baselines(config.baselines, settings)
    here: _Row = {"source": label, "data_seed": settings.seed}
    scoring = {"n_rows": config.n_rows, "metrics": [m.model_dump(mode="json") for m in _metrics(config, settings)]}
    work = _Work([], [], [])
    given = None if config.probe is None else _examples(config.probe, settings, source)
    if config.probe is not None and given is not None:
        work.aside.extend([given, _probe(config.probe, given, None, here)])
    for dictionary, row in [*_dictionaries(config, source), *_refinements(config, source), *_baselines(config, source)]:
        work.made.append(dictionary)
        for its_reading, its_row in _readings(config, source, dictionary, row):
            identity = {"source": label, **its_row, "data_seed": settings.seed}
            its_probe = None
            if config.probe is not None and given is not None:
                its_probe = _probe(config.probe, given, its_reading, identity)
            work.made.append(its_reading)
            work.rated.append(_Rated(its_reading, _score(source, its_reading, scoring, identity), its_probe))
    return work


def _source(source: SourceConfig) -> Step:
    files = {name: _content_hash(path, f"source.{name}") for name, path in source.external_files().items()}
    config = {"source": source.model_dump(mode="json"), "files": files}
    version = STAGES[source.stage].VERSION
    return Step(source.stage, version, config, title=f"{_kind(source)} data_seed={source.seed}")


def _dictionaries(config: Config, source: Step) -> Iterator[tuple[Step, _Row]]:
    """One step for every dictionary to train; those on one source with one training share batches: a group."""
    pairs = list(product(config.dictionaries, config.trainings))
    merged = [{**t.model_dump(mode="json"), **d.model_dump(mode="json")} for d, t in pairs]
    labels = labels_of(merged, skip={"n_latents", "l1", "l0", "k"})
    for ((dictionary, training), label), seed in product(zip(pairs, labels, strict=True), config.seeds):
        settings, how = dictionary.model_dump(mode="json"), training.model_dump(mode="json")
        together = Step("train", train.VERSION, {"train": how}, {"source": source})
        row: _Row = {
            "method": label,
            "encoder": None,
            "n_latents": dictionary.n_latents,
            "l1": settings.get("l1"),
            "target_l0": settings.get("l0") or settings.get("k"),
            "seed": seed,
        }
        content = {"dictionary": settings, "train": how, "seed": seed}
        yield Step("train", train.VERSION, content, {"source": source}, f"train-{together.key}", _title(row)), row


def _refinements(config: Config, source: Step) -> Iterator[tuple[Step, _Row]]:
    """One step for every dictionary that is to be refined; what is trained for it is a step of its own."""
    every = [{"kind": "refine", **settings.model_dump(mode="json")} for _, settings in config.refinements]
    trained = {step.key: (step, row) for step, row in _dictionaries(config, source)}
    for (dictionary, refinement), label in zip(config.refinements, labels_of(every, skip=set()), strict=True):
        for step, row in trained.values():
            if step.config["dictionary"] != dictionary.model_dump(mode="json"):
                continue
            row = {**row, "method": f"{row['method']}+{label}"}
            content = {"refine": refinement.model_dump(mode="json"), "seed": row["seed"]}
            yield Step("refine", refine.VERSION, content, {"source": source, "dictionary": step}, "", _title(row)), row


def _readings(config: Config, source: Step, dictionary: Step, row: _Row) -> Iterator[tuple[Step, _Row]]:
    """A dictionary as each encoder reads it; where the config names none, as it is."""
    if not config.encoders:
        yield dictionary, row
    every = [encoder.model_dump(mode="json") for encoder in config.encoders]
    for settings, label in zip(every, labels_of(every, skip=set()), strict=True):
        own = {**row, "encoder": label}
        if settings["kind"] == "own":
            yield dictionary, own
            continue
        content = {"encoder": settings, "seed": row["seed"] or 0}
        group = Step("encode", encode.VERSION, content, {"source": source})
        inputs = {"source": source, "dictionary": dictionary}
        yield Step("encode", encode.VERSION, content, inputs, f"encode-{group.key}", _title(own)), own


def _baselines(config: Config, source: Step) -> Iterator[tuple[Step, _Row]]:
    """One step for every baseline and seed; a method that does not depend on the seed is run once."""
    every = [method.model_dump(mode="json") for method in config.baselines]
    labels = labels_of(every, skip={"n_latents"})
    for method, settings, label in zip(config.baselines, every, labels, strict=True):
        for seed in config.baseline_seeds if method.seeded else (0,):
            row: _Row = {
                "method": label,
                "encoder": settings.get("encoder"),
                "n_latents": settings.get("n_latents"),
                "l1": None,
                "target_l0": None,
                "seed": seed if method.seeded else None,
            }
            content = {"method": settings, "seed": seed}
            yield Step("train", train.VERSION, content, {"source": source}, title=_title(row)), row


def _examples(settings: ProbeTable, source: SourceConfig, step: Step) -> Step:
    """What is probed of a source; a ``ValueError`` where there is nothing."""
    tasks = settings.tasks
    files = {name: _content_hash(path, f"probe.tasks.{name}") for name, path in other_files(source, tasks).items()}
    if not files and not source.provides & {"codes", "labels"}:
        raise UserError(f"probe: labels or known features are needed, {_lacks(source)}; give probe.tasks.labels")
    if "shift" in settings.regimes and tasks.shift is None:
        raise UserError("probe.regimes: 'shift' needs another distribution; give probe.tasks.shift or leave it out")
    content = {"tasks": tasks.model_dump(mode="json"), "files": files}
    return Step("examples", examples.VERSION, content, {"source": step}, title=step.title)


def _probe(settings: ProbeTable, given: Step, dictionary: Step | None, row: _Row) -> Step:
    """The probes on a dictionary; without one, on the activations. Those of one source share its examples: a group."""
    study = settings.model_dump(mode="json", exclude={"tasks"})
    together = Step("probe", probe.VERSION, {"study": study}, {"examples": given})
    inputs = {"examples": given} | ({} if dictionary is None else {"dictionary": dictionary})
    title = "the activations" if dictionary is None else dictionary.title
    return Step("probe", probe.VERSION, {"study": study, "row": row}, inputs, f"probe-{together.key}", title)


def _score(source: Step, dictionary: Step, settings: Mapping[str, Any], row: _Row) -> Step:
    group = Step("score", score.VERSION, settings, {"source": source})
    config = {**settings, "row": row}
    inputs = {"source": source, "dictionary": dictionary}
    return Step("score", score.VERSION, config, inputs, f"score-{group.key}", dictionary.title)


def _report(config: Config, inputs: Mapping[str, Step]) -> Step:
    return Step("report", report.VERSION, _told(config), inputs, title=config.name)


def _bench(config: Config, tier: str, inputs: Mapping[str, Step]) -> Step:
    published = [row.model_dump(mode="json") for row in config.published]
    content = {**_told(config), "tier": tier, "bench": config.bench.model_dump(mode="json"), "published": published}
    return Step("bench", bench.VERSION, content, inputs, title=f"{config.name}, {tier} tier")


def _told(config: Config) -> dict[str, Any]:
    """What a page says of its run."""
    return {
        "name": config.name,
        "title": config.title,
        "description": config.description,
        "best_by": config.best_by,
        "config": config.given,
    }


def _metrics(config: Config, source: SourceConfig) -> list[MetricConfig]:
    """The metrics that are asked for, or all that the source can serve with their default settings."""
    if config.metrics is None:
        every: list[MetricConfig] = [module.Config() for module in configurable("sae.metrics").values()]
        return [metric for metric in every if metric.by_default and metric.served_by(source.provides)]
    for metric in config.metrics:
        if not metric.served_by(source.provides):
            wanted = " and ".join(sorted(metric.needs)) or " or ".join(sorted(metric.needs_any))
            raise UserError(f"score.metrics: {_kind(metric)!r} needs {wanted}, {_lacks(source)}")
    return list(config.metrics)


def _check_baselines(methods: Sequence[BaselineConfig], source: SourceConfig) -> None:
    for method in methods:
        if not method.needs <= source.provides:
            wanted = " and ".join(sorted(method.needs))
            raise UserError(f"baselines.kinds: {_kind(method)!r} needs {wanted}, {_lacks(source)}")
        if "targets" in source.provides and not method.fits_targets:
            raise UserError(
                f"baselines.kinds: {_kind(method)!r} gives back what it reads, and the source {_kind(source)!r} has "
                "targets to give back instead; take it out, or use 'linear'"
            )


def _lacks(source: SourceConfig) -> str:
    provided = ", ".join(sorted(source.provides)) or "activations alone"
    return f"which the source {_kind(source)!r} does not have: it provides {provided}"


def _kind(settings: Settings) -> str:
    return str(settings.model_dump()["kind"])


def _title(row: _Row) -> str:
    named = {name: row[name] for name in ("n_latents", "l1", "target_l0", "seed") if row[name] is not None}
    encoder = [f"({row['encoder']})"] if row["encoder"] else []
    return " ".join([row["method"], *encoder, *(f"{name}={value}" for name, value in named.items())])


def _content_hash(file: Path, field: str) -> str:
    if not file.is_file():
        raise MissingFileError(f"{field}: {file} does not exist, or is not a file")
    return sha256(file)

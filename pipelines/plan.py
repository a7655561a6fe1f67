"""From a config to its steps; errors in the config are found here, before any work starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pipelines.config.config import Config
from pipelines.config.names import labels_of
from pipelines.config.tables import ProbeTable
from pipelines.report.scores import can_rank
from pipelines.stages import bench, encode, examples, generate, model, probe, refine, report, score, stream, train
from pipelines.steps.external_files import content_hash
from pipelines.steps.source_steps import model_step_config
from pipelines.steps.step import Stage, Step
from sae.baseline import BaselineConfig
from sae.metric import MetricConfig, default_metrics
from sae.probing.sources import other_files
from sae.registry import KindSettings, Settings, UserError, fingerprint
from sae.source import MODEL, SourceConfig

STAGES: dict[str, Stage] = {
    "model": model,
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
"""The stages by name, in the order of the work."""

_Row = dict[str, Any]
"""The columns of ``scores.csv`` that identify a dictionary; None where a column does not apply."""


def plan(config: Config, tier: str | None = None) -> list[Step]:
    """The steps of a config in the order of the work: sources, dictionaries, scores, probes and the report.

    With `tier`, the tier of a suite, the last step is a comparison of methods in place of the report. The plan is a
    pure function of the config and of the content of the files that it names. Raises `UserError` where a source lacks
    what a metric, baseline or probe needs, and `MissingFileError` where a file does not exist.
    """
    if not can_rank(config.best_by):
        raise UserError(
            f"report.best_by = {config.best_by!r}: neither more nor less of it is better; choose for example mcc or "
            "explained_variance"
        )
    sources = [_source(source) for source in config.sources]
    models = {step.name: step for source in sources for step in source.inputs.values()}
    labels = labels_of([s.model_dump(mode="json") for s in config.sources], skip={"seed"})
    work = [_source_steps(config, *of) for of in zip(config.sources, sources, labels, strict=True)]
    scored = [each for of_source in work for each in of_source.scored]
    inputs = {f"source.{i}": step for i, step in enumerate(sources)}
    inputs |= {f"probes.{step.key}": step for each in work for step in each.source_probes if step.stage == "probe"}
    for i, each in enumerate(scored):
        inputs |= {f"train.{i}": each.dictionary, f"score.{i}": each.score}
        inputs |= {} if each.probe is None else {f"probe.{i}": each.probe}
    dictionaries = {step.name: step for of_source in work for step in of_source.dictionaries}
    in_order = sorted(dictionaries.values(), key=lambda step: list(STAGES).index(step.stage))
    scores = [each.score for each in scored]
    probes = [step for of_source in work for step in of_source.probes]
    last = _report(config, inputs) if tier is None else _bench(config, tier, inputs)
    return [*models.values(), *sources, *in_order, *scores, *probes, last]


def source_steps(config: Config) -> list[Step]:
    """The steps that prepare the sources of a config."""
    return [step for step in plan(config) if "source" in step.config]


@dataclass(frozen=True)
class _Scored:
    """The steps that make a dictionary with one encoder, score it and probe it."""

    dictionary: Step
    score: Step
    probe: Step | None


@dataclass(frozen=True)
class _SourceSteps:
    """The steps that depend on one source."""

    dictionaries: list[Step]
    """Steps that make dictionaries: trained, refined, and with other encoders."""
    scored: list[_Scored]
    """The dictionaries to report."""
    source_probes: list[Step]
    """The examples for probes, and the probes on the activations themselves."""

    @property
    def probes(self) -> list[Step]:
        return [*self.source_probes, *(each.probe for each in self.scored if each.probe is not None)]


def _source_steps(config: Config, settings: SourceConfig, source: Step, label: str) -> _SourceSteps:
    """The steps on one source, called `label` in tables. Raises `UserError` where it lacks what they need."""
    _check_baselines(config.baselines, settings)
    source_row: _Row = {"source": label, "data_seed": settings.seed}
    metrics = _metrics(config, settings)
    scoring = {"n_rows": config.n_rows, "metrics": [m.model_dump(mode="json") for m in metrics], **_plugins(*metrics)}
    steps = _SourceSteps([], [], [])
    examples_step = None if config.probe is None else _examples(config.probe, settings, source)
    if config.probe is not None and examples_step is not None:
        steps.source_probes.extend([examples_step, _probe(config.probe, examples_step, None, source_row)])
    trained = list(_dictionaries(config, settings, source))
    for made, made_row in [*trained, *_refinements(config, source, trained), *_baselines(config, source)]:
        steps.dictionaries.append(made)
        for dictionary, encoded_row in _with_encoders(config, source, made, made_row):
            row = {"source": label, **encoded_row, "data_seed": settings.seed}
            probe_step = None
            if config.probe is not None and examples_step is not None:
                probe_step = _probe(config.probe, examples_step, dictionary, row)
            steps.dictionaries.append(dictionary)
            steps.scored.append(_Scored(dictionary, _score(source, dictionary, scoring, row), probe_step))
    return steps


def _source(source: SourceConfig) -> Step:
    source.check_plan()
    files = {name: content_hash(path, f"source.{name}") for name, path in source.external_files().items()}
    config = {"source": source.model_dump(mode="json"), "files": files, **_plugins(source)}
    version = STAGES[source.stage].VERSION
    group = f"{source.stage}-{_shared(source, version, files)}" if source.together else ""
    title = f"{_kind(source)} data_seed={source.seed}"
    return Step(source.stage, version, config, _model(source, title), group, title)


def _model(source: SourceConfig, title: str) -> dict[str, Step]:
    """The step that trains the model of a source, by the name under which the source finds it; none for most kinds."""
    settings = source.model_settings
    if settings is None:
        return {}
    files = {name: content_hash(path, f"source.{name}") for name, path in settings.external_files().items()}
    content = {**model_step_config(source, settings), "files": files, **_plugins(source)}
    return {MODEL: Step("model", model.VERSION, content, title=title)}


def _shared(source: SourceConfig, version: int, files: Mapping[str, str]) -> str:
    """A key that sources have in common which can be prepared, and read, together."""
    settings = {name: value for name, value in source.model_dump(mode="json").items() if name not in source.together}
    return Step(source.stage, version, {"source": settings, "files": files}).key


def _dictionaries(config: Config, source_settings: SourceConfig, source: Step) -> Iterator[tuple[Step, _Row]]:
    """One step per dictionary to train, with its row; those with the same source and training settings are a group,
    because they share batches, and so are those whose sources share the passes of a model."""
    shares = source_settings.read_together
    pairs = list(product(config.dictionaries, config.trainings))
    merged = [{**t.model_dump(mode="json"), **d.model_dump(mode="json")} for d, t in pairs]
    labels = labels_of(merged, skip={"n_latents", "l1", "l0", "k"})
    for ((dictionary, training), label), seed in product(zip(pairs, labels, strict=True), config.seeds):
        settings = dictionary.model_dump(mode="json")
        train_settings = config.training_of(source_settings, dictionary, training).model_dump(mode="json")
        if shares:
            group = Step("train", train.VERSION, {"train": train_settings, "sources": source.group})
        else:
            group = Step("train", train.VERSION, {"train": train_settings}, {"source": source})
        row: _Row = {
            "method": label,
            "encoder": None,
            "n_latents": dictionary.n_latents,
            "l1": settings.get("l1"),
            "target_l0": settings.get("l0") or settings.get("k"),
            "seed": seed,
        }
        content = {"dictionary": settings, "train": train_settings, "seed": seed, **_plugins(dictionary)}
        yield Step("train", train.VERSION, content, {"source": source}, f"train-{group.key}", _title(row)), row


def _refinements(config: Config, source: Step, trained: Sequence[tuple[Step, _Row]]) -> Iterator[tuple[Step, _Row]]:
    """One step per dictionary to refine and refinement, with its row; the training before it is a separate step."""
    every = [{"kind": "refine", **settings.model_dump(mode="json")} for _, settings in config.refinements]
    of_settings: dict[str, dict[str, tuple[Step, _Row]]] = {}  # by the settings of the dictionary, then by key
    for step, row in trained if every else ():
        of_settings.setdefault(json.dumps(step.config["dictionary"]), {})[step.key] = (step, row)
    for (dictionary, refinement), label in zip(config.refinements, labels_of(every, skip=set()), strict=True):
        for step, row in of_settings[json.dumps(dictionary.model_dump(mode="json"))].values():
            row = {**row, "method": f"{row['method']}+{label}"}
            content = {"refine": refinement.model_dump(mode="json"), "seed": row["seed"]}
            yield Step("refine", refine.VERSION, content, {"source": source, "dictionary": step}, "", _title(row)), row


def _with_encoders(config: Config, source: Step, dictionary: Step, row: _Row) -> Iterator[tuple[Step, _Row]]:
    """A dictionary with each encoder of the config, with its row; unchanged where the config names none."""
    if not config.encoders:
        yield dictionary, row
    every = [encoder.model_dump(mode="json") for encoder in config.encoders]
    for encoder, settings, label in zip(config.encoders, every, labels_of(every, skip=set()), strict=True):
        encoded_row = {**row, "encoder": label}
        if settings["kind"] == "own":
            yield dictionary, encoded_row
            continue
        content = {"encoder": settings, "seed": row["seed"] or 0, **_plugins(encoder)}
        group = Step("encode", encode.VERSION, content, {"source": source})
        inputs = {"source": source, "dictionary": dictionary}
        yield Step("encode", encode.VERSION, content, inputs, f"encode-{group.key}", _title(encoded_row)), encoded_row


def _baselines(config: Config, source: Step) -> Iterator[tuple[Step, _Row]]:
    """One step per baseline and seed, with its row; a method that does not depend on the seed is run once."""
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
            content = {"method": settings, "seed": seed, **_plugins(method)}
            yield Step("train", train.VERSION, content, {"source": source}, title=_title(row)), row


def _examples(settings: ProbeTable, source: SourceConfig, step: Step) -> Step:
    """The step that gathers the examples of a source. Raises `UserError` where it has nothing to probe for."""
    tasks = settings.tasks
    files = {name: content_hash(path, f"probe.tasks.{name}") for name, path in other_files(source, tasks).items()}
    if not files and not source.provides & {"codes", "labels"}:
        raise UserError(f"probe: needs labels or known features, {_lacks(source)}; set probe.tasks.labels")
    if "shift" in settings.regimes and tasks.shift is None:
        raise UserError("probe.regimes: 'shift' needs a second distribution; set probe.tasks.shift or leave it out")
    content = {"tasks": tasks.model_dump(mode="json"), "files": files}
    return Step("examples", examples.VERSION, content, {"source": step}, title=step.title)


def _probe(settings: ProbeTable, examples_step: Step, dictionary: Step | None, row: _Row) -> Step:
    """The probes on a dictionary, or on the activations where it is None; those on the same examples are a group."""
    study = settings.model_dump(mode="json", exclude={"tasks"})
    group = Step("probe", probe.VERSION, {"study": study}, {"examples": examples_step})
    inputs = {"examples": examples_step} | ({} if dictionary is None else {"dictionary": dictionary})
    title = "the activations" if dictionary is None else dictionary.title
    return Step("probe", probe.VERSION, {"study": study, "row": row}, inputs, f"probe-{group.key}", title)


def _score(source: Step, dictionary: Step, settings: Mapping[str, Any], row: _Row) -> Step:
    group = Step("score", score.VERSION, settings, {"source": source})
    config = {**settings, "row": row}
    inputs = {"source": source, "dictionary": dictionary}
    return Step("score", score.VERSION, config, inputs, f"score-{group.key}", dictionary.title)


def _report(config: Config, inputs: Mapping[str, Step]) -> Step:
    return Step("report", report.VERSION, _page_fields(config), inputs, title=config.name)


def _bench(config: Config, tier: str, inputs: Mapping[str, Step]) -> Step:
    published = [row.model_dump(mode="json") for row in config.published]
    settings = {"tier": tier, "bench": config.bench.model_dump(mode="json"), "published": published}
    content = {**_page_fields(config), **settings}
    return Step("bench", bench.VERSION, content, inputs, title=f"{config.name}, {tier} tier")


def _page_fields(config: Config) -> dict[str, Any]:
    """What a page shows of the config of its run."""
    return {
        "name": config.name,
        "title": config.title,
        "description": config.description,
        "best_by": config.best_by,
        "config": config.given,
    }


def _metrics(config: Config, source: SourceConfig) -> list[MetricConfig]:
    """The metrics of the config; by default every metric whose needs the source meets. Raises `UserError` otherwise."""
    if config.metrics is None:
        return default_metrics(source.provides)
    kinds = [_kind(metric) for metric in config.metrics]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise UserError(
            f"score.metrics: {twice!r} is named {kinds.count(twice)} times; its scores have one name, so once"
        )
    for metric in config.metrics:
        if not metric.served_by(source.provides):
            needs = metric.requirement
            raise UserError(f"score.metrics: {_kind(metric)!r} needs {needs}, {_lacks(source)}; leave it out")
    return list(config.metrics)


def _check_baselines(methods: Sequence[BaselineConfig], source: SourceConfig) -> None:
    for method in methods:
        if not method.needs <= source.provides:
            needs = " and ".join(sorted(method.needs))
            raise UserError(f"baselines.kinds: {_kind(method)!r} needs {needs}, {_lacks(source)}; leave it out")
        if "targets" in source.provides and not method.fits_targets:
            raise UserError(
                f"baselines.kinds: {_kind(method)!r} reconstructs its input, but the source {_kind(source)!r} has "
                "targets to predict instead; leave it out, or use 'linear'"
            )


def _lacks(source: SourceConfig) -> str:
    provided = ", ".join(sorted(source.provides)) or "activations only"
    return f"which the source {_kind(source)!r} does not have (it provides {provided})"


def _plugins(*settings: Settings) -> dict[str, Any]:
    """The ``plugins`` entry of a step's config: fingerprints of kinds from outside the package, and of those that are
    a setting of another. Empty where there are none, so that the keys of steps of built-in kinds do not change."""
    inner = [value for each in settings for _, value in each if isinstance(value, KindSettings)]
    fingerprints = {_kind(each): fingerprint(each) for each in (*settings, *inner)}
    plugins = {kind: value for kind, value in fingerprints.items() if value is not None}
    return {"plugins": plugins} if plugins else {}


def _kind(settings: Settings) -> str:
    return str(settings.model_dump()["kind"])


def _title(row: _Row) -> str:
    named = {name: row[name] for name in ("n_latents", "l1", "target_l0", "seed") if row[name] is not None}
    encoder = [f"({row['encoder']})"] if row["encoder"] else []
    return " ".join([row["method"], *encoder, *(f"{name}={value}" for name, value in named.items())])

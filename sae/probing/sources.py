"""What a source has to be probed: its labels, labelled texts read where it was read, or which features are active."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from sae.activations.disk_source import Activations
from sae.activations.labels import half_of
from sae.numerics.binary_probes import frequent_enough, spread_over
from sae.numerics.seeds import generator
from sae.probing.examples import Pooling, ProbeExamples
from sae.probing.texts import TextReader, read_files, read_together
from sae.registry import Settings, UserError
from sae.source import Batch, Source, SourceConfig
from sae.sources import tensor, transformer
from sae.toys.base import ToyConfig


class TaskSettings(Settings):
    """What is probed. `labels` are files of labelled texts for a source of a transformer (its own where there are
    none); `pooling` says what stands for a text or a word of several tokens. A toy has tasks 'feature g is active' for
    at most `n_tasks` features from rare to frequent. A property needs `min_count` rows of either class in both halves;
    either half has `max_rows` examples at most. `shift` makes another distribution: for texts other files, ``{labels =
    [...]}``, else settings of the source in place of its own, such as ``{noise = 0.2}``."""

    labels: tuple[Path, ...] = ()
    pooling: Pooling = "last"
    n_tasks: int = Field(default=16, gt=0)
    min_count: int = Field(default=20, ge=1)
    max_rows: int = Field(default=8192, ge=4)
    shift: Mapping[str, Any] | None = None


def examples_of(source: Source, settings: TaskSettings, config: SourceConfig | None = None) -> dict[str, ProbeExamples]:
    """The examples to be fitted on (``train``, of the rows to choose on) and to be scored on (``test``), and those of
    another distribution (``shift``) where settings ask for it, which takes the source's own `config`.

    Raises ``ValueError`` of one line where the source has nothing to be probed.
    """
    if isinstance(source, Activations) and (files := text_files(source.config, settings)):
        found = _of_texts(source, settings, files)
    else:
        found = _of_rows(source, settings)
        if settings.shift is not None:
            assert config is not None
            found["shift"] = _shifted(source, shifted(config, settings.shift), found["train"], settings)
    kept = _frequent(found["train"], found["test"], settings.min_count)
    return {part: _at_most(_only(examples, kept), settings.max_rows, part) for part, examples in found.items()}


def text_files(config: SourceConfig, settings: TaskSettings) -> tuple[Path, ...]:
    """The files of labelled texts that a source of a transformer is probed on; none for any other."""
    if not isinstance(config, transformer.Config):
        if settings.labels:
            raise UserError("probe.tasks.labels: only a source of kind 'transformer' reads texts; leave them out")
        return ()
    return settings.labels or (() if config.labels is None else (config.labels,))


def other_files(config: SourceConfig, settings: TaskSettings) -> dict[str, Path]:
    """Every file beyond the source's own that the examples depend on, by a name for it."""
    texts = text_files(config, settings)
    found = {f"labels.{i}": file for i, file in enumerate(texts)}
    if settings.shift is None:
        return found
    if texts:
        return found | {f"shift.labels.{i}": file for i, file in enumerate(shift_files(settings.shift))}
    return {f"shift.{name}": file for name, file in shifted(config, settings.shift).external_files().items()}


def _of_texts(source: Activations, settings: TaskSettings, files: tuple[Path, ...]) -> dict[str, ProbeExamples]:
    reader, texts = TextReader.like(source), read_files(files)
    seed, found = source.config.seed, dict[str, ProbeExamples]()
    for part, half in (("train", "choose"), ("test", "test")):
        own = [[text for text in of_file if half_of(text, seed) == half] for of_file in texts]
        if not any(own):
            raise UserError(f"probe.tasks.labels: no text falls to {part!r}; give more texts, or documents")
        found[part] = read_together(reader, own, settings.pooling)
    if settings.shift is not None:
        other = read_files(shift_files(settings.shift))
        found["shift"] = read_together(reader, other, settings.pooling)
    return found


def shift_files(shift: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files of a shift of texts."""
    given = shift.get("labels")
    if set(shift) != {"labels"} or not isinstance(given, list | tuple) or not given:
        raise UserError("probe.tasks.shift: for texts give {labels = [files]} and nothing else")
    return tuple(Path(str(file)) for file in given)  # pyright: ignore[reportUnknownVariableType]


def _of_rows(source: Source, settings: TaskSettings) -> dict[str, ProbeExamples]:
    """From the rows that a source has: with labels, or else with codes."""
    labelled = source.labelled()
    if labelled is not None:
        return {part: _labelled(batch) for part, batch in zip(("train", "test"), labelled, strict=True)}
    choose, test = (source.at_most(settings.max_rows, split) for split in ("choose", "test"))
    if choose.codes is None or test.codes is None:
        raise UserError("probe: the source has neither labels nor known features; give probe.tasks.labels")
    on_choose, on_test = choose.codes > 0, test.codes > 0
    usable = frequent_enough(settings.min_count, on_choose, on_test)
    if source.truth is not None:
        usable &= source.truth.represented
    features = spread_over(on_choose, usable, settings.n_tasks).tolist()
    return {"train": _active(choose, features), "test": _active(test, features)}


def _labelled(batch: Batch) -> ProbeExamples:
    """Every label, and every class of a label with classes."""
    labels: dict[str, Tensor] = {}
    for name, label in batch.labels.items():
        classes = label.unique().tolist()
        if set(classes) <= {0, 1}:
            labels[name] = label
        else:
            labels |= {f"{name}_{c}": (label == c).long() for c in classes}
    return ProbeExamples.each(batch.acts, labels)


def _active(batch: Batch, features: list[int]) -> ProbeExamples:
    assert batch.codes is not None
    return ProbeExamples.each(batch.acts, {f"feature_{g}": (batch.codes[:, g] > 0).long() for g in features})


def shifted(config: SourceConfig, shift: Mapping[str, Any]) -> SourceConfig:
    """A source's settings with others in the place of some."""
    if not isinstance(config, ToyConfig | tensor.Config):
        kind = config.model_dump()["kind"]
        raise UserError(f"probe.tasks.shift: a source of kind {kind!r} has no other distribution; leave it out")
    try:
        return type(config)(**{**config.model_dump(), **shift})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["probe.tasks.shift", *map(str, first["loc"])])
        raise UserError(f"{field} = {first['input']!r}: {first['msg']}") from None


def _shifted(source: Source, config: SourceConfig, train: ProbeExamples, settings: TaskSettings) -> ProbeExamples:
    """The test rows of the shifted source, with the properties that the training rows have."""
    other = config.build() if isinstance(config, ToyConfig) else config.open(Path(), "cpu")
    same = source.truth is None or (
        other.truth is not None and torch.equal(other.truth.directions, source.truth.directions)
    )
    if other.d_in != source.d_in or not same:
        raise UserError("probe.tasks.shift: it changes the features themselves; change how they occur, or the noise")
    if source.labelled() is None:
        features = [int(name.removeprefix("feature_")) for name in train.labels]
        return _active(other.at_most(settings.max_rows, "test"), features)
    labelled = other.labelled()
    if labelled is None:
        raise UserError("probe.tasks.shift: the shifted source has no labels")
    return _labelled(labelled[1])


def _frequent(train: ProbeExamples, test: ProbeExamples, min_count: int) -> list[str]:
    """The properties that are frequent enough, and no more than that of the rows."""
    counts = {
        name: min(int((part.labels[name] == c).sum()) for part in (train, test) for c in (0, 1))
        for name in train.labels
        if name in test.labels
    }
    kept = [name for name, count in counts.items() if count >= min_count]
    if not kept:
        raise UserError(
            f"probe.tasks: none of {len(train.labels)} properties has min_count = {min_count} rows of either class in "
            "both halves; give more labelled rows or a smaller min_count"
        )
    return kept


def _only(examples: ProbeExamples, names: list[str]) -> ProbeExamples:
    """The examples with these properties alone."""
    labels = {name: examples.labels[name] for name in names if name in examples.labels}
    return ProbeExamples(examples.acts, labels, examples.groups, examples.of, examples.pooling)


def _at_most(examples: ProbeExamples, n: int, part: str) -> ProbeExamples:
    """At most `n` of the examples, at random, in their order."""
    if len(examples) <= n:
        return examples
    kept = torch.randperm(len(examples), generator=generator("examples", part))[:n]
    return examples.at(kept.sort().values)

"""Probe examples of a source: from its labels, from labelled texts run through its model, or from active features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from sae.activations.disk_source import Activations
from sae.activations.labels import half_of, read_labelled
from sae.activations.text_config import TextConfig
from sae.numerics.binary_probes import frequent_enough, spread_over
from sae.numerics.seeds import generator
from sae.probing.examples import Pooling, ProbeExamples
from sae.probing.package_tables import package_tables
from sae.probing.texts import TextReader, read_files, read_together
from sae.registry import LocalPath, UserError, VersionedSettings, expand_home
from sae.source import Batch, Source, SourceConfig, check_codes_known, check_label
from sae.sources import tensor
from sae.toys.base import ToyConfig


class TaskSettings(VersionedSettings):
    """Settings of the tasks of a probe study."""

    later: ClassVar[frozenset[str]] = frozenset({"sae_probes"})

    labels: tuple[LocalPath, ...] = ()
    """Files of labelled texts, for a transformer source; by default the source's own file."""
    sae_probes: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Tables of the package sae-probes, for a transformer source, such as ``92_glue_sst2``: one task for each, or one
    for each class where there are more than two."""
    pooling: Pooling = "last"
    """How the vectors of a text or word of several tokens are reduced to one."""
    n_tasks: int = Field(default=16, gt=0)
    """For a toy, the most tasks 'feature g is active', with features from rare to frequent."""
    min_count: int = Field(default=20, ge=1)
    """The fewest examples of either class that a property needs in both the training and the test half."""
    max_rows: int = Field(default=8192, ge=4)
    """The most examples of either half."""
    shift: Mapping[str, Any] | None = None
    """A second test distribution: for texts other files, ``{labels = [...]}``, otherwise settings that replace those of
    the source, such as ``{noise = 0.2}``. None for no shift."""


def examples_of(source: Source, settings: TaskSettings, config: SourceConfig | None = None) -> dict[str, ProbeExamples]:
    """The examples of a source: ``train`` from the validation split, ``test`` from the test split, and ``shift`` from
    the second distribution if settings ask for one, which requires the source's `config`.

    Raises `UserError` if the source has nothing to probe.
    """
    if isinstance(source, Activations) and text_files(source.config, settings):
        parts = _of_texts(source, settings)
    else:
        parts = _of_rows(source, settings)
        if settings.shift is not None:
            assert config is not None
            parts["shift"] = _shifted(source, shifted(config, settings.shift), parts["train"], settings)
    names = _frequent(parts["train"], parts["test"], settings.min_count)
    return {part: _at_most(_only(examples, names), settings.max_rows, part) for part, examples in parts.items()}


def text_files(config: SourceConfig, settings: TaskSettings) -> tuple[Path, ...]:
    """The files of labelled texts of a transformer source; none for any other source."""
    if not isinstance(config, TextConfig):
        given = "labels" if settings.labels else "sae_probes" if settings.sae_probes else ""
        if given:
            raise UserError(
                f"probe.tasks.{given}: only a source of kind 'transformer' or 'language' reads texts; leave them out"
            )
        return ()
    return (*_own_files(config, settings), *package_tables(settings.sae_probes or ()))


def _own_files(config: TextConfig, settings: TaskSettings) -> tuple[Path, ...]:
    """The user's files of labelled texts: that of the source where the settings name no texts."""
    if settings.labels or settings.sae_probes or config.labels is None:
        return settings.labels
    return (config.labels,)


def other_files(config: SourceConfig, settings: TaskSettings) -> dict[str, Path]:
    """Every file that the examples depend on besides those of the source, by the setting that names it."""
    texts = text_files(config, settings)
    tables = settings.sae_probes or ()
    own = len(texts) - len(tables)
    files = {f"labels.{i}": file for i, file in enumerate(texts[:own])}
    files |= {f"sae_probes.{name}": file for name, file in zip(tables, texts[own:], strict=True)}
    if settings.shift is None:
        return files
    if texts:
        return files | {f"shift.labels.{i}": file for i, file in enumerate(shift_files(settings.shift))}
    return {f"shift.{name}": file for name, file in shifted(config, settings.shift).external_files().items()}


def _of_texts(source: Activations, settings: TaskSettings) -> dict[str, ProbeExamples]:
    assert isinstance(source.config, TextConfig)
    own = _own_files(source.config, settings)
    # The labels of a table have its name, which is in one package only once.
    texts = (read_files(own) if own else []) + [
        read_labelled(file) for file in package_tables(settings.sae_probes or ())
    ]
    reader = TextReader.like(source)
    seed, parts = source.config.seed, dict[str, ProbeExamples]()
    for part, half in (("train", "choose"), ("test", "test")):
        of_half = [[text for text in of_file if half_of(text, seed) == half] for of_file in texts]
        if not any(of_half):
            raise UserError(f"probe.tasks.labels: no text falls into {part!r}; give texts from more documents")
        parts[part] = read_together(reader, of_half, settings.pooling)
    if settings.shift is not None:
        other = read_files(shift_files(settings.shift))
        parts["shift"] = read_together(reader, other, settings.pooling)
    return parts


def shift_files(shift: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files of a shift of texts."""
    files = shift.get("labels")
    if set(shift) != {"labels"} or not isinstance(files, list | tuple) or not files:
        raise UserError("probe.tasks.shift: not a list of files; for texts give {labels = [files]} and nothing else")
    return tuple(expand_home(Path(str(file))) for file in files)  # pyright: ignore[reportUnknownVariableType]


def _of_rows(source: Source, settings: TaskSettings) -> dict[str, ProbeExamples]:
    """Examples from a source's held-out activations, with their labels, or with active features without labels."""
    labelled = source.labelled()
    if labelled is not None:
        return {part: _labelled(batch) for part, batch in zip(("train", "test"), labelled, strict=True)}
    choose, test = (source.at_most(settings.max_rows, split) for split in ("choose", "test"))
    if choose.codes is None or test.codes is None:
        raise UserError("probe: the source has neither labels nor known features; give probe.tasks.labels")
    for batch in (choose.codes, test.codes):
        check_codes_known(batch, "source: codes")
    on_choose, on_test = choose.codes > 0, test.codes > 0
    usable = frequent_enough(settings.min_count, on_choose, on_test)
    if source.truth is not None:
        usable &= source.truth.represented
    features = spread_over(on_choose, usable, settings.n_tasks).tolist()
    return {"train": _active(choose, features), "test": _active(test, features)}


def _labelled(batch: Batch) -> ProbeExamples:
    """Examples with every binary label, and a label for every class of the others."""
    labels: dict[str, Tensor] = {}
    for name, label in batch.labels.items():
        check_label(f"source: label {name!r}", label, len(batch.acts))
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
    """A source's settings with those of the shift replaced. Raises `UserError` if the source cannot be shifted."""
    if not isinstance(config, ToyConfig | tensor.Config):
        kind = config.model_dump()["kind"]
        raise UserError(f"probe.tasks.shift: a source of kind {kind!r} cannot be shifted; leave it out")
    try:
        return type(config)(**{**config.model_dump(), **shift})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["probe.tasks.shift", *map(str, first["loc"])])
        raise UserError(f"{field} = {first['input']!r}: {first['msg']}") from None


def _shifted(source: Source, config: SourceConfig, train: ProbeExamples, settings: TaskSettings) -> ProbeExamples:
    """The test examples of the shifted source, with the labels of the training examples."""
    other = config.build() if isinstance(config, ToyConfig) else config.open(Path(), "cpu")
    same = source.truth is None or (
        other.truth is not None and torch.equal(other.truth.directions, source.truth.directions)
    )
    if other.d_in != source.d_in or not same:
        raise UserError("probe.tasks.shift: changes the features' directions; change their statistics or the noise")
    if source.labelled() is None:
        features = [int(name.removeprefix("feature_")) for name in train.labels]
        return _active(other.at_most(settings.max_rows, "test"), features)
    labelled = other.labelled()
    if labelled is None:
        raise UserError("probe.tasks.shift: the shifted source has no labels; give one that has those of the source")
    return _labelled(labelled[1])


def _frequent(train: ProbeExamples, test: ProbeExamples, min_count: int) -> list[str]:
    """The names of the properties with `min_count` examples of either class in both parts."""
    counts = {
        name: min(int((part.labels[name] == c).sum()) for part in (train, test) for c in (0, 1))
        for name in train.labels
        if name in test.labels
    }
    names = [name for name, count in counts.items() if count >= min_count]
    if not names:
        raise UserError(
            f"probe.tasks: none of {len(train.labels)} properties has min_count = {min_count} rows of either class in "
            "both halves; give more labelled rows or a smaller min_count"
        )
    return names


def _only(examples: ProbeExamples, names: list[str]) -> ProbeExamples:
    """The examples with only the named labels."""
    labels = {name: examples.labels[name] for name in names if name in examples.labels}
    return ProbeExamples(examples.acts, labels, examples.groups, examples.of, examples.pooling)


def _at_most(examples: ProbeExamples, n: int, part: str) -> ProbeExamples:
    """A random subset of at most `n` examples, in their order."""
    if len(examples) <= n:
        return examples
    kept = torch.randperm(len(examples), generator=generator("examples", part))[:n]
    return examples.at(kept.sort().values)

"""Chooses the precision of training where a config says ``auto``, before the run is planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from pipelines.config.config import Config
from pipelines.config.precision import Shape
from pipelines.config.tables import RuntimeTable
from pipelines.steps.precision_record import PRECISIONS, timings_of
from sae.fitting import default_device
from sae.training.precision import EncoderTiming, slower_warning, time_encoder


def choose_precision(config: Config, root: Path) -> Config:
    """The config with a precision for every shape of training whose precision is ``auto``.

    What the folder of steps has on record is taken; only what it has not is timed, and recorded.
    """
    shapes = {shape for precision, shape in _shapes(config) if precision == "auto"}
    if not shapes:
        return config
    known = _timings(shapes, config.runtime, root)
    return replace(config, precisions={shape: known[shape].faster for shape in shapes})


def precision_notes(config: Config, root: Path) -> list[str]:
    """One line for each shape of training: what ``auto`` took and why, or a warning that a precision which was asked
    for takes longer than float32 on this machine."""
    shapes = {(precision, shape) for precision, shape in _shapes(config) if precision != "float32"}
    if not shapes:
        return []
    known = _timings({shape for _, shape in shapes}, config.runtime, root)
    notes = list[str]()
    for precision, shape in sorted(shapes, key=lambda pair: (pair[0], pair[1].name)):
        timing = known[shape]
        if precision != "auto":
            notes.append(slower_warning(precision, timing) or "")
            continue
        width = "" if shape.d_in else f"; the width is not known yet, {shape.width:,} was assumed"
        notes.append(f"train.precision = 'auto': {timing.faster}; {timing}{width}, kept in {root / PRECISIONS}")
    return [note for note in notes if note]


def _shapes(config: Config) -> Iterator[tuple[str, Shape]]:
    """The precision and the shape of every dictionary that is trained."""
    dictionaries = [*config.dictionaries, *(dictionary for dictionary, _ in config.refinements)]
    for source, dictionary, training in product(config.sources, dictionaries, config.trainings):
        if training.precision != "float32":
            yield training.precision, Shape.of(source, dictionary, training)


def _timings(shapes: set[Shape], runtime: RuntimeTable, root: Path) -> dict[Shape, EncoderTiming]:
    of_name = {shape.name: shape for shape in shapes}
    device = default_device() if runtime.device == "auto" else runtime.device

    def measure(name: str) -> EncoderTiming:
        shape, threads = of_name[name], torch.get_num_threads()
        torch.set_num_threads(runtime.threads or threads)
        try:
            return time_encoder(shape.width, shape.n_latents, shape.batch, device)
        finally:
            torch.set_num_threads(threads)

    known = timings_of(root, of_name, measure)
    return {shape: known[name] for name, shape in of_name.items()}

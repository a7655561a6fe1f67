"""Times how fast the toy sources draw batches, against the rate at which a training step could use them.

python -m benchmarks.generate
"""

from __future__ import annotations

from itertools import count
from typing import Any

from pydantic import ValidationError

from benchmarks.clock import mean_seconds
from benchmarks.isolated import call
from benchmarks.lines import Line, emit, note, run
from benchmarks.roofline import Roofline
from sae.registry import configurable
from sae.toys.base import ToyConfig

COMMON_SETTINGS: dict[str, Any] = {"n_features": 512, "probability": 5 / 512, "n_active": 5.0}
"""Values for the kinds that have these settings; all other settings are at their defaults."""


def generate(
    *, d_in: int = 256, n_latents: int = 2048, batch: int = 4096, threads: int = 2, seconds: float = 2.0
) -> list[Line]:
    """Print a result for every kind of toy source.

    Parameters
    ----------
    d_in
        Width of the activations.
    n_latents
        Width of the dictionary whose dense roofline is measured.
    batch
        Samples per batch.
    threads
        Threads per process.
    seconds
        Time for each kind.
    """
    lines: list[Line] = []
    for kind, settings in toys(d_in).items():
        shape = {"d_in": d_in, "n_latents": n_latents, "batch": batch}
        timing = call("benchmarks.generate:measure", {"settings": settings, **shape, "seconds": seconds}, threads)
        line: Line = {"name": kind, **shape, "n_features": settings.get("n_features"), "threads": threads, **timing}
        line["fraction"] = line["rows_per_s"] / line["roofline_samples_per_s"]
        lines.append(emit("generate", line))
    return lines


def toys(d_in: int) -> dict[str, dict[str, Any]]:
    """Settings of every kind of toy source. A kind with other required settings is skipped with a note."""
    settings_of: dict[str, dict[str, Any]] = {}
    for kind, module in configurable("sources").items():
        if issubclass(module.Config, ToyConfig):
            fields = module.Config.model_fields
            settings = {name: value for name, value in {**COMMON_SETTINGS, "d_in": d_in}.items() if name in fields}
            try:
                settings_of[kind] = module.Config(**settings).model_dump(mode="json")
            except ValidationError as error:
                note(f"{kind}: skipped, {error.errors()[0]['loc']} has no value in COMMON_SETTINGS")
    return settings_of


def measure(settings: dict[str, Any], d_in: int, n_latents: int, batch: int, seconds: float) -> dict[str, float]:
    """Samples per second of one source, and of the dense roofline, in this process."""
    config = configurable("sources")[settings["kind"]].Config(**settings)
    source, step = config.build(), count()
    roofline = Roofline(d_in, n_latents, batch, at_least=seconds / 6)
    roofline.seconds()
    per_batch = mean_seconds(lambda: source.batch(next(step), batch), at_least=seconds)
    roofline.seconds()
    dense = sum(roofline.measured) / len(roofline.measured)
    return {"rows_per_s": batch / per_batch, "roofline_samples_per_s": batch / dense}


if __name__ == "__main__":
    run(generate)

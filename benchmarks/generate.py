"""How fast the toy sources draw batches, beside the rate at which a training step could use them.

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

USUAL: dict[str, Any] = {"n_features": 512, "probability": 5 / 512, "n_active": 5.0}
"""Settings for the kinds that have them; everything else is left at its default."""


def generate(
    *, d_in: int = 256, n_latents: int = 2048, batch: int = 4096, threads: int = 2, seconds: float = 2.0
) -> list[Line]:
    """Print a line for every kind of toy source.

    Parameters
    ----------
    d_in
        Width of the activations.
    n_latents
        Width of the dictionary whose dense roofline stands beside the rates.
    batch
        Rows of a batch.
    threads
        Threads of every process.
    seconds
        How long each kind is timed for.
    """
    lines: list[Line] = []
    for kind, settings in toys(d_in).items():
        shape = {"d_in": d_in, "n_latents": n_latents, "batch": batch}
        taken = call("benchmarks.generate:measure", {"settings": settings, **shape, "seconds": seconds}, threads)
        line: Line = {"name": kind, **shape, "n_features": settings.get("n_features"), "threads": threads, **taken}
        line["fraction"] = line["rows_per_s"] / line["roofline_samples_per_s"]
        lines.append(emit("generate", line))
    return lines


def toys(d_in: int) -> dict[str, dict[str, Any]]:
    """Settings of every kind of toy source; a kind that wants more than the usual ones is left out with a note."""
    found: dict[str, dict[str, Any]] = {}
    for kind, module in configurable("sae.sources").items():
        if issubclass(module.Config, ToyConfig):
            fields = module.Config.model_fields
            settings = {name: value for name, value in {**USUAL, "d_in": d_in}.items() if name in fields}
            try:
                found[kind] = module.Config(**settings).model_dump(mode="json")
            except ValidationError as error:
                note(f"{kind}: left out, {error.errors()[0]['loc']} is not set here")
    return found


def measure(settings: dict[str, Any], d_in: int, n_latents: int, batch: int, seconds: float) -> dict[str, float]:
    config = configurable("sae.sources")[settings["kind"]].Config(**settings)
    source, step = config.build(), count()
    roofline = Roofline(d_in, n_latents, batch, at_least=seconds / 6)
    roofline.seconds()
    taken = mean_seconds(lambda: source.batch(next(step), batch), at_least=seconds)
    roofline.seconds()
    dense = sum(roofline.measured) / len(roofline.measured)
    return {"rows_per_s": batch / taken, "roofline_samples_per_s": batch / dense}


if __name__ == "__main__":
    run(generate)

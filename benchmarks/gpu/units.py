"""What is measured, in order of worth: parts, and their units, each of which is measured and recorded by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sae.registry import UserError, unknown

PARTS = ("device", "cases", "demo", "steps", "stacks", "models", "sources", "suite")
"""The parts, in the order in which they run."""


@dataclass(frozen=True)
class Unit:
    """One measurement."""

    part: str
    """The part that it belongs to."""
    name: str
    """Its name in the results, unique in its part."""
    function: str
    """What measures it, ``module:name``; it takes `settings` as keywords and returns figures."""
    seconds: float
    """About how long it takes on a GPU; it is not begun with less time left, and ended after three times as long."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it is called with."""

    @property
    def key(self) -> str:
        """Identifies the measurement: a unit with other settings is another."""
        content = json.dumps([self.part, self.name, self.function, dict(self.settings)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Shape:
    """A training step's sizes."""

    d_in: int
    n_latents: int
    batch: int
    l0: int

    def settings(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "n_latents": self.n_latents, "batch": self.batch, "l0": self.l0}

    def __str__(self) -> str:
        return f"{self.d_in} to {self.n_latents}, B {self.batch}"


LARGE = (Shape(768, 24_576, 8192, 32), Shape(2304, 65_536, 4096, 64), Shape(768, 131_072, 8192, 32))
SMALL = (Shape(32, 128, 64, 4),)
KINDS = ("topk", "relu", "batchtopk", "jumprelu")
PRECISIONS = ("screen", "bfloat16", "float32")
ALL_KINDS = ("relu", "gated", "jumprelu", "topk", "batchtopk", "matryoshka", "matching_pursuit")
PEERS = (
    "sparsify-topk",
    "saelens-standard",
    "saelens-topk",
    "dictionary_learning-standard",
    "dictionary_learning-topk",
)


def units(device: str, small: bool, folder: str) -> list[Unit]:
    """All units. `folder` keeps what a later call continues."""
    return [
        *_device(device, small),
        *_cases(device, small),
        *_demo(device, small, folder),
        *_steps(device, small),
        *_stacks(device, small),
        *_models(device, small, folder),
        *_sources(device, small),
        *_suite(device, small, folder),
    ]


def chosen(every: list[Unit], only: list[str]) -> list[Unit]:
    """The units of these parts; all where none is named. Raises `UserError` for a part that does not exist."""
    for part in only:
        if part not in PARTS:
            raise UserError(f"--only: {unknown(part, PARTS, 'part')}")
    return [unit for unit in every if not only or unit.part in only]


def _device(device: str, small: bool) -> Iterator[Unit]:
    at = {"device": device, "small": small}
    yield Unit("device", "versions", "benchmarks.gpu.rates:versions", 5, {"device": device})
    yield Unit("device", "products", "benchmarks.gpu.rates:products", 8, at)
    yield Unit("device", "copies", "benchmarks.gpu.rates:copies", 6, at)


def _cases(device: str, small: bool) -> Iterator[Unit]:
    yield Unit("cases", "kernels", "benchmarks.gpu.cases:kernels", 60, {"device": device, "small": small})
    for kind in ALL_KINDS:
        yield Unit(
            "cases", f"{kind} trained", "benchmarks.gpu.agreement:agreement", 6, {"kind": kind, "device": device}
        )


def _demo(device: str, small: bool, folder: str) -> Iterator[Unit]:
    settings = {"device": device, "small": small, "folder": folder}
    yield Unit("demo", "scores", "benchmarks.gpu.demo:demo", 100, settings)


def _steps(device: str, small: bool) -> Iterator[Unit]:
    seconds = 0.2 if small else 2.0
    for shape in SMALL if small else LARGE:
        common = {**shape.settings(), "device": device, "seconds": seconds}
        for precision in PRECISIONS:
            for kind in KINDS:
                settings = {**common, "kind": kind, "precision": precision}
                yield Unit("steps", f"{kind}, {precision}, {shape}", "benchmarks.gpu.steps:step", 8, settings)
    first = (SMALL if small else LARGE)[0]
    for peer in PEERS:
        settings = {**first.settings(), "device": device, "seconds": seconds, "name": peer}
        yield Unit("steps", f"{peer}, {first}", "benchmarks.gpu.steps:peer", 10, settings)
    settings = {**first.settings(), "device": device, "seconds": seconds / 4}
    yield Unit("steps", f"paths, {first}", "benchmarks.gpu.steps:paths", 30, settings)


def _stacks(device: str, small: bool) -> Iterator[Unit]:
    seconds = 0.2 if small else 2.0
    for members in (3,) if small else (16, 64):
        for replayed in (True, False):
            settings = {"members": members, "replayed": replayed, "device": device, "seconds": seconds, "small": small}
            name = f"{members} members, {'replayed' if replayed else 'launched one by one'}"
            yield Unit("stacks", name, "benchmarks.gpu.stacks:stacked", 10, settings)


def _models(device: str, small: bool, folder: str) -> Iterator[Unit]:
    seconds = 0.5 if small else 4.0
    for model in ("gpt2-tiny",) if small else ("gpt2-small", "pythia-1b"):
        for attention in ("fused", "eager"):
            settings = {
                "model": f"random:{model}",
                "attention": attention,
                "device": device,
                "seconds": seconds,
                "small": small,
            }
            yield Unit("models", f"harvest, {model}, {attention}", "benchmarks.gpu.models:harvested", 25, settings)
    settings = {"device": device, "small": small, "folder": folder}
    yield Unit("models", "training from a stream", "benchmarks.gpu.models:streamed", 90, settings)


def _sources(device: str, small: bool) -> Iterator[Unit]:
    for name in ("correlated", "synthsae"):
        settings = {"name": name, "device": device, "small": small}
        yield Unit("sources", name, "benchmarks.gpu.sources:drawn", 15, settings)


def _suite(device: str, small: bool, folder: str) -> Iterator[Unit]:
    settings = {"device": device, "small": small, "folder": folder}
    yield Unit("suite", "synthsae-16k, fast tier", "benchmarks.gpu.suite:suite", 60, settings)

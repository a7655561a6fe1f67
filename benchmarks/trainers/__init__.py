"""The trainers that are timed: ours and other libraries', one file a library.

A module has ``REQUIRES`` (what must be importable for a kind), ``KINDS`` and ``build(kind, setting, batches)``; it
imports its library only when it builds. Every library is called as its users call it: its own trainer class, its
own optimizer, its own defaults, on the same batches; what is set apart from that is said where it is set.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from benchmarks.isolated import installed
from benchmarks.pool import planted

LIBRARIES = {
    "sae": "ours",
    "dictionary_learning": "dictionary_learning",
    "saelens": "saelens",
    "sparsify": "sparsify",
    "overcomplete": "overcomplete",
}
"""The first word of a trainer's name, and the module that builds it."""


@dataclass(frozen=True)
class Setting:
    """What is trained; the same for every trainer."""

    d_in: int
    n_latents: int
    batch: int
    l0: int
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    l1: float = 1.0
    levels: tuple[int, ...] = ()
    """Widths of nested dictionaries, the last of which is `n_latents`."""
    checkpoint: str | None = None
    """Where our own trainer goes on from: a state whose L0 is the one asked for."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of our training loop beyond the defaults."""


@dataclass(frozen=True)
class Course:
    """How a whole run goes. Warm-ups of the learning rate and of the penalty, and the decay to zero, are shares of the
    steps; no `lr` means the library's own, and then no decay unless the library has one by default."""

    steps: int
    lr: float | None
    warm_up: float = 0.05
    decay: float = 0.2


class Trainer(Protocol):
    """A training run that can be moved on."""

    stride: int
    """The number of steps is a multiple of this."""

    def steps(self, n: int) -> None: ...

    def l0(self) -> float:
        """Mean number of active latents a row at this moment."""
        ...


def pool_of(setting: Setting) -> list[Tensor]:
    """The batches that every trainer of a setting gets.

    A feature for every four latents, `l0` / 2 of them in a row. An L1 dictionary that has found them fires about
    twice as often as they do, so that `l0` active latents go with a small unexplained variance.
    """
    n_features, n_active = max(1, setting.n_latents // 4), max(1, setting.l0 // 2)
    return planted(setting.d_in, n_features, setting.batch, n_active, setting.device, setting.seed)


def library_of(word: str) -> ModuleType:
    """The module of a library, by the first word of its trainers' names."""
    return importlib.import_module(f"benchmarks.trainers.{LIBRARIES[word]}")


def module_of(name: str) -> tuple[ModuleType, str]:
    """The module and the kind of a trainer's name, e.g. ``saelens-topk``."""
    library, _, kind = name.partition("-")
    if library not in LIBRARIES:
        raise ValueError(f"{name!r} is no trainer; choose from {', '.join(names())}")
    module = library_of(library)
    if kind not in module.KINDS:
        raise ValueError(f"{name!r} is no trainer; choose from {', '.join(names())}")
    return module, kind


def names() -> list[str]:
    """Every trainer there is a row for, ours first."""
    modules = {library: library_of(library) for library in LIBRARIES}
    return [f"{library}-{kind}" for library, module in modules.items() for kind in module.KINDS]


def missing(name: str) -> str | None:
    """The module that a trainer needs and that is not installed; None where it can be run."""
    module, kind = module_of(name)
    required: str = module.REQUIRES.format(kind=kind)
    return None if installed(required) else required


def build(name: str, setting: Setting, batches: Sequence[Tensor]) -> Trainer:
    """The trainer at the start of its run."""
    module, kind = module_of(name)
    return module.build(kind, setting, batches)

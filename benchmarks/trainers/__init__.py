"""The trainers that are timed: ours and those of other libraries, one file per library.

A module has ``REQUIRES`` (the module that must be importable for a kind), ``KINDS`` and ``build(kind, setting,
batches)``; it imports its library only when it builds a trainer. Every library is called as its users call it: its own
trainer class, optimizer and defaults, on the same batches. Comments mark every other setting.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from benchmarks.isolated import installed
from benchmarks.lines import note
from benchmarks.pool import planted
from sae.registry import UserError, unknown

LIBRARIES = {
    "sae": "ours",
    "dictionary_learning": "dictionary_learning",
    "saelens": "saelens",
    "sparsify": "sparsify",
    "overcomplete": "overcomplete",
}
"""The first word of a trainer's name -> the module that builds it."""


@dataclass(frozen=True)
class Setting:
    """Settings that are the same for every trainer."""

    d_in: int
    """Width of the activations."""
    n_latents: int
    """Width of the dictionary."""
    batch: int
    """Samples per batch."""
    l0: int
    """Target L0 of architectures with a penalty, and k of the others."""
    dtype: str = "float32"
    """Data type of the other libraries' mixed precision."""
    device: str = "cpu"
    """Device of the training."""
    seed: int = 0
    """Seed of the data and of the initial values."""
    l1: float = 1.0
    """Weight of the sparsity penalty."""
    levels: tuple[int, ...] = ()
    """Widths of nested dictionaries, the last of which is `n_latents`."""
    checkpoint: str | None = None
    """Checkpoint file from which our own trainer continues: a state that has reached `l0`."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of our training loop that differ from the defaults."""


@dataclass(frozen=True)
class Schedule:
    """Schedule of a whole run."""

    steps: int
    """Number of training steps."""
    lr: float | None
    """Learning rate; None means the library's own, without decay unless the library decays by default."""
    warm_up: float = 0.05
    """Warm-up of the learning rate and of the penalty, as a share of the steps."""
    decay: float = 0.2
    """Decay of the learning rate to zero at the end, as a share of the steps."""


class Trainer(Protocol):
    """Interface of a training run that advances by a number of steps."""

    stride: int
    """Calls of `steps` take multiples of this number."""

    def steps(self, n: int) -> None:
        """Trains for `n` steps."""
        ...

    def l0(self) -> float:
        """The current mean number of active latents per sample."""
        ...


def pool_of(setting: Setting) -> list[Tensor]:
    """The batches that every trainer of a setting gets.

    There is one feature for every four latents, and `l0` / 2 features are active per sample. An L1 dictionary that has
    found them has about twice as many active latents, so `l0` active latents go with a small unexplained variance.
    """
    n_features, n_active = max(1, setting.n_latents // 4), max(1, setting.l0 // 2)
    return planted(setting.d_in, n_features, setting.batch, n_active, setting.device, setting.seed)


def library_of(word: str) -> ModuleType:
    """The module of a library, by the first word of its trainers' names."""
    return importlib.import_module(f"benchmarks.trainers.{LIBRARIES[word]}")


def module_of(name: str) -> tuple[ModuleType, str]:
    """The module and the kind for a trainer's name, e.g. ``saelens-topk``.

    Raises `UserError` if there is no such trainer.
    """
    library, _, kind = name.partition("-")
    if name not in names():
        raise UserError(unknown(name, names(), "trainer"))
    return library_of(library), kind


def names() -> list[str]:
    """The names of all trainers, ours first."""
    modules = {library: library_of(library) for library in LIBRARIES}
    return [f"{library}-{kind}" for library, module in modules.items() for kind in module.KINDS]


def missing(name: str) -> str | None:
    """The missing module that a trainer needs; None if the trainer can run."""
    module, kind = module_of(name)
    required: str = module.REQUIRES.format(kind=kind)
    return None if installed(required) else required


def available(name: str) -> bool:
    """Whether the library of a trainer is installed; prints a note if not."""
    absent = missing(name)
    if absent is not None:
        note(f"{name}: skipped, {absent} is not installed")
    return absent is None


def build(name: str, setting: Setting, batches: Sequence[Tensor]) -> Trainer:
    """A new trainer, at its first step."""
    module, kind = module_of(name)
    return module.build(kind, setting, batches)

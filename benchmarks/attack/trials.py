"""A trial of an attack, what is printed of it, and the interface of attacks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Trial:
    """One trial."""

    number: int
    """Its number, which with the seed determines what is done."""
    what: str
    """What is done: the file and the offset, the moment, or the mutation."""
    failure: str = ""
    """Why it did not survive."""


class Attack(Protocol):
    """Interface of an attack, implemented by its module."""

    @property
    def TRIALS(self) -> int:
        """Trials in a whole run."""
        ...

    @property
    def QUICK(self) -> int:
        """Trials in a quick one."""
        ...

    def attack(self, folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
        """Makes the trials with these numbers in an empty folder."""
        ...


def dice(attack: str, seed: int, number: int) -> random.Random:
    """The random numbers of one trial, the same whatever was tried before it."""
    return random.Random(f"{attack} {seed} {number}")

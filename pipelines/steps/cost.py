"""Measured cost of making a dictionary: seconds and memory.

A step writes ``cost.json`` into its directory; the cost of the dictionary that it starts from is included. Both numbers
depend on the machine and the run: the scores `train_samples` and `train_flops` measure the work independently of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sae.numerics import memory
from sae.numerics.atomic_write import write_atomically

FILE = "cost.json"


@dataclass
class Cost:
    """Time and memory that some work took."""

    seconds: float = 0.0
    """Wall-clock time."""
    bytes: int = 0
    """Peak memory in bytes, less what was allocated before the work."""

    def write(self, out: Path, before: Path | None = None) -> None:
        """Writes ``cost.json`` into a step's directory.

        `before` is the directory of the dictionary that this one was made from: its seconds are added, and the larger
        of the two peaks is written.
        """
        earlier = read_cost(before) if before is not None else Cost()
        total = {"seconds": round(self.seconds + earlier.seconds, 3), "bytes": max(self.bytes, earlier.bytes)}
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / FILE, (json.dumps(total) + "\n").encode())


def read_cost(directory: Path) -> Cost:
    """The cost in a step's directory; zero where it has no ``cost.json``."""
    file = directory / FILE
    return Cost(**json.loads(file.read_text())) if file.is_file() else Cost()


@contextmanager
def metered(device: str) -> Generator[Cost]:
    """Measures the block: the yielded `Cost` is filled when the block ends."""
    cost, held, start = Cost(), memory.held_bytes(device), time.monotonic()
    yield cost
    cost.seconds, cost.bytes = time.monotonic() - start, max(0, memory.peak_bytes(device) - held)

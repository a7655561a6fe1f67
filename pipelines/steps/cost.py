"""What a dictionary cost to make on this machine: seconds and memory, measured, beside the numbers that are its own.

A step writes ``cost.json`` into its directory, with what the dictionary that it began from had cost before. Both are of
this machine and this run: the work that a method does at all is told by `train_samples` and `train_flops`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sae.files.native import write_whole
from sae.numerics import memory

FILE = "cost.json"


@dataclass
class Cost:
    """Seconds, and the most bytes that were held at once beyond what was held before."""

    seconds: float = 0.0
    bytes: int = 0

    def write(self, out: Path, before: Path | None = None) -> None:
        """Writes it into a step's directory; `before` is that of the dictionary which this one was made from."""
        so_far = read_cost(before) if before is not None else Cost()
        total = {"seconds": round(self.seconds + so_far.seconds, 3), "bytes": max(self.bytes, so_far.bytes)}
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / FILE, (json.dumps(total) + "\n").encode())


def read_cost(directory: Path) -> Cost:
    """What is written in a step's directory; nothing where there is no such file."""
    file = directory / FILE
    return Cost(**json.loads(file.read_text())) if file.is_file() else Cost()


@contextmanager
def metered(device: str) -> Generator[Cost]:
    """What the block took; to be read after it."""
    cost, held, began = Cost(), memory.held_bytes(device), time.monotonic()
    yield cost
    cost.seconds, cost.bytes = time.monotonic() - began, max(0, memory.peak_bytes(device) - held)

"""The log of training: one JSON object per line, which a resumed run continues after the line of its checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pipelines.steps.checkpoint import Timing
from sae.numerics.atomic_write import named_errors, write_atomically


class Log:
    """Training log of one member: one JSON object per line, with seconds of training and samples per second."""

    def __init__(self, file: Path, up_to: int, before: Timing, note: Callable[[str], None], sha256: str = "") -> None:
        """Continues after the line of step `up_to`, before which training took `before`.

        Lines that a killed run wrote after its checkpoint are dropped, and so is everything from a damaged line on; all
        lines, where they are whole but have not the SHA-256 that they had at the checkpoint.
        """
        self.file, self.before, self.last = file, before, before
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = _lines(file)
        kept = [line for line, step in lines if step <= up_to]
        if up_to and (not lines or lines[-1][1] < up_to):
            note(f"{file}: lines up to step {up_to} are missing or damaged; the log goes on after {len(kept)} lines")
        elif sha256 not in ("", hashlib.sha256(b"".join(kept)).hexdigest()):
            note(f"{file}: damaged, its hash differs from that in the checkpoint; the log goes on after 0 lines")
            kept = []
        self.digest = hashlib.sha256(b"".join(kept))
        write_atomically(file, b"".join(kept))
        self.start = time.monotonic()

    def write(self, record: Mapping[str, float | int]) -> None:
        elapsed = time.monotonic() - self.start
        rate = (record["samples"] - self.before.samples) / elapsed
        self.last = Timing(round(self.before.seconds + elapsed, 3), int(record["samples"]))
        values = {**record, "seconds": self.last.seconds, "samples_per_s": round(rate, 1)}
        line = (json.dumps(values) + "\n").encode()
        self.digest.update(line)
        with named_errors(self.file), self.file.open("ab") as f:
            f.write(line)

    def sync(self) -> None:
        """Flushes the log to disk."""
        with named_errors(self.file), self.file.open("rb+") as f:
            os.fsync(f.fileno())


def _lines(file: Path) -> list[tuple[bytes, int]]:
    """The lines of a log with their steps, up to the first that is cut off, unreadable or out of order."""
    lines: list[tuple[bytes, int]] = []
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
        try:
            content: Any = json.loads(line)
        except ValueError:
            break
        step: Any = cast(dict[str, Any], content).get("step") if isinstance(content, dict) else None
        if not line.endswith(b"\n") or not isinstance(step, int) or (lines and step <= lines[-1][1]):
            break
        lines.append((line, step))
    return lines

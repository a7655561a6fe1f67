"""The state of an unfinished tokenisation, from which an interrupted one goes on.

It is a hidden file in the folder of the source, with a checksum of its own. What else is in an unfinished folder may be
removed where it is not known to be whole; a state counts only where all rows of tokens that it builds on are there.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae.numerics.atomic_write import atomic_file

STATE = ".tokenising"
"""Name of the file."""
SAVE_SECONDS = 2.0
"""The least time between two states."""
SAVE_DOCUMENTS = 100_000
"""The number of documents after which a state is saved even if no rows have been written."""
MOST_SHARE = 0.05
"""The largest share of the time that saving states takes."""


class Progressed(NamedTuple):
    """How far a tokenisation is."""

    facts: Mapping[str, Any]
    """Numbers and positions, in JSON."""
    arrays: Mapping[str, NDArray[np.int32]]
    """Tokens that are not in files of rows yet."""


@dataclass
class CorpusState:
    """Saves and loads how far a tokenisation is."""

    directory: Path
    """The folder of the source."""
    key: Any
    """What the rows depend on, in JSON; a state of anything else is not loaded."""
    _saved: float = field(default_factory=time.monotonic, init=False)
    _took: float = field(default=0.0, init=False)

    @property
    def file(self) -> Path:
        return self.directory / STATE

    @property
    def is_due(self) -> bool:
        """Whether the last state is old enough for another."""
        return time.monotonic() - self._saved >= max(SAVE_SECONDS, self._took / MOST_SHARE)

    def save(self, progressed: Progressed) -> None:
        """Writes the state atomically."""
        began = time.monotonic()
        shapes = {name: array.shape for name, array in progressed.arrays.items()}
        head = json.dumps({"key": self.key, "facts": progressed.facts, "shapes": shapes}).encode() + b"\n"
        digest = hashlib.sha256(head)
        arrays = [np.ascontiguousarray(array, dtype="<i4") for array in progressed.arrays.values()]
        for array in arrays:
            digest.update(array.data)
        # Under one name, so that the next run overwrites what a killed one leaves.
        with atomic_file(self.file, self.file.with_name(f"{STATE}.new")) as temporary, temporary.open("wb") as file:
            file.write(digest.hexdigest().encode() + b"\n" + head)
            for array in arrays:
                file.write(array.data)
        self._saved = time.monotonic()
        self._took = self._saved - began

    def load(self) -> Progressed | None:
        """The state that was saved last; None where there is none, or it is damaged or of something else."""
        try:
            digest, _, content = self.file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        head, _, numbers = content.partition(b"\n")
        saved = json.loads(head)
        if saved["key"] != json.loads(json.dumps(self.key)):
            return None
        arrays, begin = dict[str, NDArray[np.int32]](), 0
        for name, shape in saved["shapes"].items():
            count = math.prod(shape)
            arrays[name] = np.frombuffer(numbers, "<i4", count, begin).reshape(shape).astype(np.int32)
            begin += 4 * count
        return Progressed(saved["facts"], arrays)

    def remove(self) -> None:
        """Removes the state, where there is one."""
        self.file.unlink(missing_ok=True)

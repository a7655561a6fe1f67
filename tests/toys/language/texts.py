"""A small text of short stories, made up by the tests."""

from __future__ import annotations

import random
from pathlib import Path

NAMES, THINGS = ("Lily", "Tom", "Ben", "Sue"), ("ball", "cat", "tree", "boat", "hat")


def stories(file: Path, n: int = 120, seed: int = 0) -> Path:
    """Writes `n` stories, separated by ``|``, in which names and things return."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(n):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        texts.append(f"{name} had a {thing}. The {thing} was {rng.choice(['big', 'red', 'old'])}. {name} liked it.\n")
    file.write_text("|".join(texts), encoding="utf-8")
    return file

"""A transformer source over random words, for tests of the files it stores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sae.activations.shards import Shards
from sae.sources.transformer import Activations, Config

SPLITS = ("train", "choose", "test")


def silent(done: int, total: int, unit: str) -> None:
    pass


def words(file: Path, documents: int) -> Path:
    """Writes documents of 2 to 40 words of the tiny models, separated by ``|``."""
    rng = random.Random(0)
    texts = (" ".join(f"w{rng.randrange(40)}" for _ in range(rng.randint(2, 40))) for _ in range(documents))
    file.write_text("|".join(texts))
    return file


def build(directory: Path, **settings: Any) -> Activations:
    config = Config(**settings)
    config.prepare(directory, silent, "cpu")
    source = config.open(directory, "cpu")
    assert isinstance(source, Activations)
    return source


def columns(source: Activations, split: str) -> dict[str, Tensor]:
    shards: Shards = source.shards[split]  # pyright: ignore
    return {name: shards.rows(np.arange(shards.n_rows), name) for name in shards.names}

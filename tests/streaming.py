"""A transformer source over random words, for tests of the files it stores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sae.activations.shards import Shards
from sae.registry import MissingFileError
from sae.source import Progress
from sae.sources.transformer import Activations, Config

SPLITS = ("train", "choose", "test")


def silent(done: int, total: int, unit: str) -> None:
    pass


class Killed(BaseException):
    """Ends a preparation as abruptly as a killed process."""


def kill_after(calls: int) -> Progress:
    """A progress callback that raises :class:`Killed` after `calls` calls."""
    seen = 0

    def progress(done: int, total: int, unit: str) -> None:
        nonlocal seen
        seen += 1
        if seen > calls:
            raise Killed

    return progress


def bytes_of(directory: Path) -> dict[str, bytes]:
    """The content of every file of a directory."""
    return {file.name: file.read_bytes() for file in directory.iterdir()}


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


def prepare_with_kills(config: Config, folder: Path) -> int:
    """Prepares ``whole/`` in one go and ``killed/`` in one call per shard, each killed after it; returns the number of
    shards of the training split. Until it is complete, the source cannot be opened."""
    config.prepare(folder / "whole", silent, "cpu")
    shards = len(list((folder / "whole").glob("train-*")))
    for stop in range(shards + 2):
        with pytest.raises(Killed):
            config.prepare(folder / "killed", kill_after(stop), "cpu")
        with pytest.raises(MissingFileError, match="not complete"):
            config.open(folder / "killed", "cpu")
    return shards


def columns(source: Activations, split: str) -> dict[str, Tensor]:
    shards: Shards = source.shards[split]  # pyright: ignore
    return {name: shards.rows(np.arange(shards.n_rows), name) for name in shards.names}

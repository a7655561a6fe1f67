"""Sources of more shards than a process may have open files."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sae.activations.file_map import map_file, request_bytes
from sae.activations.shards import Shard, Shards, write_shard

MANY, ROWS = 120, 3
READS_ALL = f"""
import os, resource, sys
from pathlib import Path
import numpy as np
from sae.activations.shards import Shards

shards = Shards([Path(sys.argv[1]) / f"{{k}}.safetensors" for k in range({MANY})])
Shards([shards.shards[0].file]).rows(np.arange(1))  # imports and compiles
open_files = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
order = np.random.default_rng(0).permutation(shards.n_rows)
rows = shards.rows(order)
assert rows[:, 0].tolist() == order.tolist() and shards.rows(order, "position").tolist() == order.tolist()
shards._request(order, "acts")
assert len(os.listdir("/proc/self/fd")) <= open_files + 1, "a descriptor is kept for each shard"
print("done")
"""


def shard(file: Path, first: int, rows: int = ROWS) -> Path:
    """A shard whose rows hold their number in the table."""
    numbers = torch.arange(first, first + rows)
    write_shard(file, {"acts": numbers[:, None].expand(rows, 4).float(), "position": numbers})
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_more_shards_than_open_files(tmp_path: Path):
    """With the usual `ulimit -n 1024` a source of 268M tokens ended in 'Too many open files'."""
    for k in range(MANY):
        shard(tmp_path / f"{k}.safetensors", ROWS * k)
    done = subprocess.run(
        [sys.executable, "-c", READS_ALL, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_arrays_outlive_the_shard(tmp_path: Path):
    """A map that keeps no descriptor must stay until the last array on it is gone."""
    words = Shard.open(shard(tmp_path / "a.safetensors", 7)).words("position")
    gc.collect()
    assert words.tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match="read-only"):
        words[0] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_maps_are_returned(tmp_path: Path):
    """Opening a source again and again does not pile up maps."""
    file = shard(tmp_path / "piled.safetensors", 0)
    for _ in range(5):
        assert Shards([file]).rows(np.arange(3)).shape == (3, 4)
    gc.collect()
    assert Path("/proc/self/maps").read_text().count(file.name) <= 1


def test_a_request_may_cross_pages_and_end_the_file(tmp_path: Path):
    """Rows that are asked for in advance lie anywhere in the file."""
    file = tmp_path / "bytes"
    file.write_bytes(os.urandom(3 * 4096 + 5))
    buffer = map_file(file)
    for begin, size in ((0, 1), (4095, 2), (5000, 5000), (3 * 4096, 5)):
        request_bytes(buffer, begin, size)
    assert bytes(buffer) == file.read_bytes()


def test_a_file_that_cannot_be_mapped_is_named(tmp_path: Path):
    """The error of the C library keeps its reason and the name of the file."""
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises((OSError, ValueError), match=r"Invalid argument|cannot mmap an empty file"):
        map_file(empty)

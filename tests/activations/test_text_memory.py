"""Memory of tokenising a folder of many shards: that of one shard, however many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import resource, sys
from pathlib import Path
from sae.activations.corpus import PositionSelection
from sae.model.loading import load_tokenizer
from sae.sources.transformer import Config

model, text, out = sys.argv[1:]
config = Config(model=model, text=text, hook="blocks.0.hook_resid_post", context=128)
tokenizer = load_tokenizer(model)
Path(out).mkdir()
splits = config._write_corpus(Path(out), tokenizer, 47, PositionSelection.of(tokenizer, True), lambda *_: None)
print(sum(split["tokens"] for split in splits.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["texts", "ids"])
def test_ten_times_the_shards_take_no_more_memory(tmp_path: Path, tiny_models: Mapping[str, Path], form: str):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, peaks = np.random.default_rng(0), list[int]()
    for n_shards in (10, 100):
        folder = tmp_path / f"{n_shards} shards"
        folder.mkdir()
        for k in range(n_shards):
            ids = rng.integers(3, 43, (500, 200))
            rows = ids.tolist() if form == "ids" else [" ".join(f"w{i - 3}" for i in row) for row in ids.tolist()]
            pq.write_table(pa.table({"text": rows}), folder / f"train-{k:05d}-of-{n_shards:05d}.parquet")
        command = [sys.executable, "-c", PROGRAM, str(tiny_models["llama"]), str(folder), str(tmp_path / f"{n_shards}")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        tokens, peak = map(int, done.stdout.split())
        assert abs(tokens / (n_shards * 100_000) - 1) < 0.01
        peaks.append(peak)
    print(f"peak memory of {form}: {peaks} MB")
    assert peaks[1] - peaks[0] < 50  # the rows alone are 72 MB more

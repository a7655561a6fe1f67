"""A run on shards of text that is killed while it tokenises them goes on where it was, and ends on the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sae.activations.corpus_state import STATE
from sae.model.loading import load_tokenizer
from tests.pipelines.test_runner import work
from tests.text_forms import documents, write_form

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from sae.activations import corpus_state, corpus_writer, data_sets, text
from sae.sources.transformer import Config
from tests.pipelines.test_runner import work

table, out, where, nth = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
corpus_writer.REPORT_SECONDS = corpus_state.SAVE_SECONDS = 0.0
corpus_state.MOST_SHARE = float("inf")
data_sets.RECORDS_AT_ONCE = 64
text.CHUNK_SIZE = 3000
calls = 0

def killing(owner, name, before=False):
    plain = getattr(owner, name)
    def call(*arguments):
        global calls
        calls += 1
        if before and calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(*arguments)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)

match where:
    case "rows":  # written, and not reported
        killing(corpus_writer, "write_part")
    case "before state":
        killing(corpus_state.CorpusState, "save", before=True)
    case "state":
        killing(corpus_state.CorpusState, "save")
    case "record":  # of the rows, which is not reported
        killing(Config, "record")
    case "links":
        killing(sys.modules["sae.sources.transformer"], "link_or_copy")
work(table, out)
"""


@pytest.fixture(scope="module")
def table(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model, folder = str(tiny_models["llama"]), tmp_path_factory.mktemp("text") / "shards"
    form = write_form(folder, "parquet", documents(6000), load_tokenizer(model))
    return {
        "name": "killed",
        "source": {"kind": "transformer", "model": model, "text": str(form["text"]), "context": 4, "cache": "none",
                   "hook": ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"], "window_tokens": 5000,
                   "heldout_share": 0.3, "rows_at_once": 512},
        "dictionary": {"kind": "relu", "n_latents": 32, "l1": 0.1},
        "train": {"seeds": [0], "steps": 20, "batch_size": 64, "log_every": 10, "n_scale": 64},
        "score": {"n_rows": 400, "metrics": ["reconstruction"]},
        "runtime": {"device": "cpu", "threads": 1},
    }  # fmt: skip


def killed(table: dict[str, Any], out: Path, where: str, nth: int) -> dict[str, Any]:
    """The state that a run has left that was killed at the nth call."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(table), str(out), where, str(nth)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    states = [file.read_bytes() for file in out.glob(f"*.partial/{STATE}")]
    return json.loads(states[0].splitlines()[1])["facts"] if states else {"documents": 0}


def finish(table: dict[str, Any], tmp_path: Path, results: Callable[[Path], dict[str, str]]) -> None:
    work(table, tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(f"*/{STATE}*"))
    work(table, tmp_path / "whole")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_killed_while_it_tokenises_goes_on(
    table: dict[str, Any], tmp_path: Path, results: Callable[[Path], dict[str, str]]
):
    """The file of rows behind the state is removed, because nothing says that it is whole, and written again."""
    assert killed(table, tmp_path / "killed", "rows", 2)["documents"] > 500
    finish(table, tmp_path, results)


@pytest.mark.slow
def test_a_run_killed_at_every_stage_of_tokenising_never_begins_anew(
    table: dict[str, Any], tmp_path: Path, results: Callable[[Path], dict[str, str]]
):
    out = tmp_path / "killed"
    stages = ["before state", "state", "rows", "before state", "state", "record", "links"]
    read = [killed(table, out, where, 1 + (where == "links"))["documents"] for where in stages]
    assert 0 == read[0] < read[1] == read[2] == read[3] < read[4] <= read[5]
    assert read[6] == 0  # the rows are complete, and the state is removed
    finish(table, tmp_path, results)

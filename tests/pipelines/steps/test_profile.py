"""`sae run --profile`: the table adds up, the trace is valid, and the results are the same as without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.steps.profile import PREFETCH, PROFILE_PARTS, profile_rows, recorder
from pipelines.steps.step import Runtime
from sae.numerics.profiler import NO_SPANS, Spans


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls `sae` in this process and returns what it prints."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["sae", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    return call


def test_a_profiled_run_shows_where_time_went_and_changes_no_result(
    command: Callable[..., str], tiny_file: Path, tmp_path: Path, results: Callable[[Path], dict[str, str]]
):
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    assert "where time went" not in command("run", tiny_file, "--out", plain)
    assert not list(plain.glob("*.trace.json"))
    output = command("run", tiny_file, "--out", profiled, "--profile")
    assert results(plain) == results(profiled) != {}

    words = [line.split()[0] for line in output.splitlines() if line.strip()]
    table = words[words.index("where") :]
    for name in ("generate", "train", "data", "bookkeeping", "baselines", "other", "score", "report"):
        assert name in table
    file = profiled / "tiny.trace.json"
    assert f"trace: {file}" in output and output.rstrip().endswith("report.html")
    events = json.loads(file.read_text())["traceEvents"]
    assert {"train", "score", "data"} <= {event["name"] for event in events}
    assert all(event.keys() >= {"name", "ph", "ts", "dur", "pid", "tid"} for event in events)
    assert sum(event["name"] == "data" for event in events) == 60

    before = file.read_bytes()
    output = command("run", tiny_file, "--out", profiled, "--profile")
    assert "nothing to profile" in output and "where time went" not in output
    assert file.read_bytes() == before


def test_stages_sum_to_the_whole_and_parts_to_training():
    spans = Spans()
    with spans("generate"):
        pass
    for _ in range(2):
        with spans("train"):
            for _ in range(3):
                for part in (*PROFILE_PARTS, "resampling"):
                    with spans(part), spans("encode"):
                        pass
    with spans("score"), spans("data"):
        pass
    with spans(PREFETCH):
        pass
    rows = list(profile_rows(spans))
    names = [name.strip() for name, *_ in rows]
    assert names == [
        "generate",
        "train",
        *PROFILE_PARTS,
        "resampling",
        "other",
        "score",
        f"{PREFETCH}, in parallel with training",
    ]
    stages = [row for row in rows if row[0] in ("generate", "train", "score")]
    parts = [row for row in rows if row[0].startswith(" ")]
    assert sum(row[2] or 0 for row in stages) == pytest.approx(1)
    assert sum(row[1] for row in parts) == pytest.approx(stages[1][1], abs=1e-8)
    assert rows[1][3] == pytest.approx(rows[1][1] / 6)  # six steps in all
    assert rows[0][3] is None and rows[names.index("resampling")][3] is None and rows[-1][2] is None


def test_profiling_is_off_by_default_and_does_not_synchronize_on_a_cpu():
    assert Runtime().spans is NO_SPANS
    with recorder("cpu")("x"):
        pass

"""Fixtures: a run that takes a second, as a table and as a file, and a way to call the command."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A config of two penalties and two seeds, one baseline with a seed and one without."""
    return {
        "name": "tiny",
        "source": {"kind": "independent", "n_features": 16, "d_in": 8, "probability": 0.1},
        "dictionary": {"kind": "relu", "n_latents": 16, "l1": [0.1, 0.5]},
        "train": {"seeds": [0, 1], "steps": 60, "batch_size": 32, "log_every": 10, "n_scale": 64},
        "baselines": {"kinds": ["random", "neurons"]},
        "score": {"n_rows": 400, "metrics": ["reconstruction", "recovery"]},
        "runtime": {"device": "cpu", "threads": 1, "checkpoint_seconds": 0},
    }


@pytest.fixture
def tiny_file(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """The config `tiny` as a TOML file."""
    lines = [f"name = {json.dumps(tiny.pop('name'))}"]
    for name, table in tiny.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    file = tmp_path / "tiny.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def results() -> Callable[[Path], dict[str, str]]:
    """Hashes of the files of finished steps in a folder, except those that hold times: logs, manifests, costs."""

    def hashes(out: Path) -> dict[str, str]:
        folders = [f for f in out.glob("*-*") if f.suffix != ".partial" and not f.name.startswith("report")]
        files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
        timeless = [f for f in files if f.name not in ("log.jsonl", "manifest.json", "cost.json")]
        return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in timeless}

    return hashes


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command in this process; returns exit code, stdout, and stderr, which holds nothing but errors."""
    monkeypatch.setattr("pipelines.steps.progress.Board.QUICK_SECONDS", float("inf"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sae", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call

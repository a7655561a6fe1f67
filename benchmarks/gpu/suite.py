"""The fast tier of the suite `synthsae-16k`, for as long as there is time; a later call continues it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.isolated import environment

SMALL = (
    "source.n_features=340",
    "source.activity.roots=4",
    "source.d_in=32",
    "source.seed=0",
    "source.directions={kind='random'}",
    "dictionary=[{kind='batchtopk', n_latents=64, k=4}]",
    "train.steps=40",
    "train.batch_size=64",
    "bench.l0=4",
    "score.n_rows=500",
    "baselines.kinds=['random']",
    "score.metrics=['reconstruction', 'recovery']",
)
GRACE = 20.0
"""Seconds in which an interrupted run saves its checkpoints."""


def suite(device: str, small: bool, folder: str, seconds: float = 150.0) -> dict[str, Any]:
    """Runs the suite for `seconds`, then interrupts it; the numbers of its steps that are done, and whether all are."""
    out = Path(folder) / "suite"
    command = [sys.executable, "-m", "pipelines", "bench", "synthsae-16k", "--tier", "fast", "--out", str(out)]
    for setting in (f"runtime.device={device}", *(SMALL if small else ())):
        command += ["--set", setting]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    if process.returncode not in (0, 130, -signal.SIGKILL):
        raise RuntimeError(f"sae bench ended with exit code {process.returncode}: {said[-300:]}")
    finished = [step.name.split("-")[0] for step in out.iterdir() if (step / "manifest.json").is_file()]
    return {
        "all_done": process.returncode == 0,
        "ok": process.returncode == 0 or bool(finished),
        "suite_seconds": time.perf_counter() - began,
        "dictionaries": finished.count("train"),
        "scores": finished.count("score"),
        "last_line": said.strip().splitlines()[-1][-200:] if said.strip() else "",
    }

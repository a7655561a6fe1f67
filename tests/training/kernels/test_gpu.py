"""Runs `gpu_cases` in a separate process: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be chosen for a whole process, before Triton is imported. To run single cases:

    TRITON_INTERPRET=1 python -m pytest tests/training/kernels/gpu_cases.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch


def missing() -> str:
    """Why the cases cannot run here; empty if they can."""
    try:
        release = tuple(int(part) for part in version("triton").split(".")[:2])
    except PackageNotFoundError:
        return "there is no Triton"
    if not torch.cuda.is_available() and release < (3, 9):
        return "there is no GPU, and Triton's interpreter fails with newer numpy before its release 3.9"
    return ""


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_gpu_cases():
    mode = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    cases = Path(__file__).with_name("gpu_cases.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    run = subprocess.run(command, env=os.environ | mode, cwd=cases.parents[2], capture_output=True, text=True)
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]

"""Runs `gpu_cases` in a separate process: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be chosen for a whole process, before Triton is imported. To run single cases:

    TRITON_INTERPRET=1 python -m pytest tests/training/kernels/gpu_cases.py
"""

from __future__ import annotations

import pytest

from benchmarks.gpu.cases import missing, run_cases
from sae.fitting import default_device

WHY_NOT = missing(default_device())


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_gpu_cases():
    run = run_cases(default_device())
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]

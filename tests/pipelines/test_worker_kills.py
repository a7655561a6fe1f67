"""Several workers on one folder of steps that are killed, suspended or preempted end on the bytes of one alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked"),
]


def workers(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.workers", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.mark.parametrize("machines", ["1", "2", "4"])
def test_workers_killed_at_random_moments(machines: str):
    """As processes of one machine, of two and of four, which know nothing of each other's processes."""
    assert "100 workers killed" in workers("--kills", "100", "--machines", machines)


@pytest.mark.parametrize("machines", ["1", "2"])
def test_a_worker_that_is_suspended_for_longer_than_a_lease(machines: str):
    """Another takes over; the suspended one then leaves the step, and touches nothing of it."""
    assert "20 workers suspended" in workers("--suspensions", "20", "--machines", machines)


def test_workers_preempted_at_random_moments():
    """By SIGTERM, on which they leave within moments, without a claim."""
    assert "60 workers preempted" in workers("--preemptions", "60", "--machines", "2")

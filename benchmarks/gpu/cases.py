"""The kernels' test cases on the device: passed, failed, and the first error of each that failed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.isolated import ROOT

CASES = ROOT / "tests" / "training" / "kernels" / "gpu_cases.py"
A_FEW = "of_equal_codes or leftmost or rounding_alone"
"""Cases that also Triton's interpreter runs in seconds."""


def missing(device: str) -> str:
    """Why the cases cannot run on the device; empty if they can."""
    try:
        release = tuple(int(part) for part in version("triton").split(".")[:2])
    except PackageNotFoundError:
        return "there is no Triton"
    if not device.startswith("cuda") and release < (3, 9):
        return "there is no GPU, and Triton's interpreter fails with newer numpy before its release 3.9"
    return ""


def run_cases(device: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the cases in a process of their own: on a GPU, or for a CPU in Triton's interpreter, which must be chosen
    for a whole process, before Triton is imported."""
    mode = {} if device.startswith("cuda") else {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(CASES)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | mode, capture_output=True, text=True, check=False)


def kernels(device: str, small: bool) -> dict[str, Any]:
    """How many of the cases passed, and the errors of the others; a few cases where `small`."""
    if reason := missing(device):
        return {"passed": 0, "failed": 0, "skipped": reason}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cases.xml"
        done = run_cases(device, f"--junitxml={report}", *(["-k", A_FEW] if small else []))
        if not report.is_file():
            raise RuntimeError(
                f"pytest ended with exit code {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
            )
        return counted(report)


def counted(report: Path) -> dict[str, Any]:
    """What a JUnit report says: numbers, and for every failed case its name and the first line of its error."""
    cases = list(ET.parse(report).iter("testcase"))
    errors: dict[str, str] = {}
    for case in cases:
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                errors.setdefault(str(case.get("name")), " ".join(str(found.get("message")).split())[:300])
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(errors) - skipped
    return {"passed": passed, "failed": len(errors), "skipped": skipped, "errors": errors, "ok": not errors}

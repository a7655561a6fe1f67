"""Measures units that arrive on stdin, one JSON object a line, and answers with one line each.

A process of its own, so that what breaks a GPU's context, which no later call in the process survives, ends the worker
and nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

from benchmarks.isolated import installed, stand_in_for_torchvision


def main() -> None:
    """Answers until stdin ends, or until an error of the device."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    if installed("torchvision"):
        stand_in_for_torchvision()
    for line in sys.stdin:
        unit = json.loads(line)
        answer, broken = _measured(unit["function"], unit["settings"])
        pipe.write(json.dumps(answer) + "\n")
        pipe.flush()
        if broken:
            return


def _measured(function: str, settings: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The figures or the error of a unit with its seconds, and whether the device cannot be used any more."""
    began = time.perf_counter()
    try:
        module, _, name = function.partition(":")
        answer = {"ok": True, **getattr(importlib.import_module(module), name)(**settings)}
        broken = False
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        answer = {"ok": False, "error": text[:500], "at": f"{os.path.basename(where.filename)}:{where.lineno}"}
        broken = "CUDA error" in text or "device-side assert" in text
    return {**answer, "seconds": time.perf_counter() - began}, broken


if __name__ == "__main__":
    main()

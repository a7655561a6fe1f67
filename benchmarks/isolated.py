"""Runs each measurement in a separate process.

So peak memory is that of one measurement, and the imports and thread settings of one library do not affect another. A
function gets its settings as keyword arguments and returns a JSON object.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

QUIET = {
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""The variables that limit the threads of libraries; OpenBLAS reads the first where it has none of its own."""


class ProcessError(Exception):
    """The process ended without a result; its own message is on stderr."""


def environment(threads: int | None = None) -> dict[str, str]:
    """The environment of a process of a measurement: it finds this checkout and is quiet; `threads` limits those of its
    libraries."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    pinned = {} if threads is None else {name: str(threads) for name in THREADS}
    return {**os.environ, **QUIET, **pinned, "PYTHONPATH": path}


def call(function: str, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The result of a `function`, ``module:name``, called with these settings in a new interpreter.

    Raises `ProcessError` if the process fails.
    """
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.isolated", function, str(threads)],
        input=json.dumps(dict(settings)),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(threads),
    )
    if process.returncode:
        raise ProcessError(f"{function} ended with exit code {process.returncode}")
    return json.loads(process.stdout)


def installed(module: str) -> bool:
    """Whether a module can be found. Only its parent packages are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def main() -> None:
    """Calls the function named on the command line, and writes its result to stdout as JSON."""
    function, threads = sys.argv[1:]
    settings = json.loads(sys.stdin.read())
    # Only the result goes to the pipe; whatever the libraries print is discarded.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import torch

    torch.set_num_threads(int(threads))
    stand_in_for_torchvision()
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(**settings)
    pipe.write(json.dumps(result))
    pipe.close()


def stand_in_for_torchvision() -> None:
    """Makes torchvision importable with a CPU build of torch.

    PyPI's torchvision is built for CUDA. With a CPU build its operators cannot be loaded, and its import fails because
    two of them are missing, and with it the import of transformers and of every library that depends on it. The two are
    registered here without an implementation; nothing calls them.
    """
    import torch

    if torch.version.cuda is None and installed("torchvision"):
        try:
            importlib.import_module("torchvision")
        except (RuntimeError, ImportError):
            for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
                del sys.modules[module]
            global _operators  # the registration ends with this object
            _operators = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_operators: Any = None

if __name__ == "__main__":
    main()

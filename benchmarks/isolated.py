"""Each measurement in a process of its own: its peak memory is its own, and no library's imports or thread settings
reach another's. A function gets its settings as keyword arguments and gives back a JSON object.
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


class Failed(Exception):
    """The process ended without a result; what it had to say is on stderr."""


def call(function: str, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The result of ``module:function`` with these settings, run in a fresh interpreter on so many threads."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.isolated", function, str(threads)],
        input=json.dumps(dict(settings)),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUIET, **pinned, "PYTHONPATH": path},
    )
    if ran.returncode:
        raise Failed(f"{function} ended with exit code {ran.returncode}")
    return json.loads(ran.stdout)


def installed(module: str) -> bool:
    """Whether a module can be found, without running any of it but its parents."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def main() -> None:
    function, threads = sys.argv[1:]
    settings = json.loads(sys.stdin.read())
    # Libraries print what they like to nobody; the result alone goes to the pipe.
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
    """Makes torchvision importable beside a CPU build of torch.

    The registry's torchvision is built for CUDA: its operators cannot be loaded there, and its import fails over
    two that are missing, taking transformers and every library on top of it along. Nothing here calls them.
    """
    import torch

    if torch.version.cuda is None and installed("torchvision"):
        try:
            importlib.import_module("torchvision")
        except (RuntimeError, ImportError):
            for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
                del sys.modules[module]
            global _operators  # the registration lasts as long as the object
            _operators = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_operators: Any = None

if __name__ == "__main__":
    main()

"""Workers as processes of this machine, each with a share of the cores and a GPU of its own where there are any."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import ClassVar

from pipelines.engines.engine import WorkerEngine
from pipelines.engines.process import RESTARTS, chosen_threads, cores, discard_ready, end_process, start_process
from pipelines.engines.shared_run import SharedRun
from pipelines.engines.worker import BUG, MISTAKE

GRACE_SECONDS = 30.0
"""How long a worker that is asked to stop may take to save its state before it is killed."""


class LocalEngine(WorkerEngine):
    """Starts processes on this machine."""

    name: ClassVar[str] = "local"

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: dict[str, int] = {}
        self._lost: dict[str, str] = {}

    def start(self, run: SharedRun, n: int) -> None:
        self._run = run
        self._threads = run.table.threads or chosen_threads() or max(1, cores() // n)
        gpus = visible_gpus(run)
        self._gpus = {str(i + 1): gpus[i % len(gpus)] for i in range(n)} if gpus else {}
        for i in range(n):
            self._start(str(i + 1))
        discard_ready()

    def _start(self, name: str) -> None:
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[name]} if name in self._gpus else {}
        self._processes[name] = start_process(self._run.folder, name, self._threads, gpu)

    def tend(self, is_pending: bool) -> int:
        at_work = 0
        for name, process in list(self._processes.items()):
            code = process.poll()
            if code is not None and is_pending and code not in (0, BUG, MISTAKE) and name not in self._lost:
                if self._restarts.get(name, 0) < RESTARTS:
                    self._restarts[name] = self._restarts.get(name, 0) + 1
                    self._start(name)
                    code = None
                else:
                    log = self._run.folder / f"{name}.log"
                    self._lost[name] = f"worker {name} died {RESTARTS + 1} times, last by {_ending(code)}; log: {log}"
            at_work += code is None
        return at_work

    def stop(self) -> str:
        processes = self._processes.values()
        try:
            for process in processes:  # once each, since a second signal means at once
                process.terminate()
            end = time.monotonic() + GRACE_SECONDS
            for process in processes:
                end_process(process, end)
        finally:
            for process in processes:  # also after a second Ctrl-C
                process.kill()
        return ""

    def lost(self) -> list[str]:
        return list(self._lost.values())


def visible_gpus(run: SharedRun) -> list[str]:
    """The GPUs to give to workers, one each; none where the config names a device or spreads the model over GPUs."""
    if run.table.device != "auto" or run.table.model_device is not None:
        return []
    import torch

    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [gpu.strip() for gpu in chosen.split(",")] if chosen else [str(i) for i in range(torch.cuda.device_count())]


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"

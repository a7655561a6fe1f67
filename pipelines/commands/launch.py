"""Starts several processes of one command on this machine: `sae run --devices N`.

The processes are supervised by torch.multiprocessing: where one ends before its work is done, the others are ended too.
Each is given what torchrun would give it, and a file in place of an address.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.engines.process import cores
from pipelines.steps.joining import MEETING_FILE, number_and_count
from sae.registry import UserError

LEAVE_SECONDS = 5
"""How long the other processes may take to leave once one of them has ended; then they are told to, and after as long
again they are killed."""


def start_devices(n: int, device: str, has_workers: bool) -> None:
    """Runs the present command again in `n` processes and ends with their exit code; does nothing for one, or in one of
    several. Raises `UserError` where workers are asked for as well."""
    if n < 1:
        raise UserError(f"--devices {n}: give the number of processes, 1 or more")
    together = n > 1 or number_and_count()[1] > 1
    if together and has_workers:
        raise UserError("--devices, --workers: processes that train together are one worker; give one of the two")
    if n > 1:
        sys.exit(run_on_devices(n, without_option(sys.argv[1:], "--devices"), device))


def run_on_devices(n: int, arguments: Sequence[str], device: str) -> int:
    """Runs the command `sae` with `arguments` in `n` processes, one for each GPU, or with an equal share of the cores.

    Returns the exit code: 0, or that of the first process that failed. Raises `UserError` where a process was killed,
    or there are fewer GPUs.
    """
    import torch
    from torch.multiprocessing.spawn import ProcessExitedException, start_processes

    on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpus and torch.cuda.device_count() < n:
        raise UserError(
            f"--devices {n}: this machine has {torch.cuda.device_count()} GPUs; ask for fewer, or set "
            "runtime.device=cpu to divide its cores"
        )
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        # Children read these when they import torch.
        with _environment({} if on_gpus else {"OMP_NUM_THREADS": str(max(1, cores() // n))}):
            started = start_processes(_one, (n, meeting, list(arguments)), n, join=False, start_method="spawn")
        assert started is not None
        signal.signal(signal.SIGTERM, lambda number, _: _pass_on(number, started.pids()))
        try:
            while not started.join(grace_period=LEAVE_SECONDS):
                pass
        except ProcessExitedException as error:
            if error.exit_code > 0:  # it has said why
                return error.exit_code
            raise UserError(
                f"process {error.error_index + 1} of {n} was ended by {error.signal_name}, and the others with it; run "
                "the same command again to continue from the last checkpoint"
            ) from None
        return 0


def _pass_on(number: int, pids: Sequence[int | None]) -> None:
    """Passes a signal on to the processes, which write a checkpoint and end."""
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _one(rank: int, n: int, meeting: str, arguments: list[str]) -> None:
    """One of the processes."""
    import runpy

    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    os.environ.update({name: str(number) for name, number in numbers.items()} | {MEETING_FILE: meeting})
    sys.argv = ["sae", *arguments]
    runpy.run_module("pipelines", run_name="__main__")


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments without an option and its value, as ``--name value`` or ``--name=value``."""
    kept, skip = list[str](), False
    for argument in arguments:
        if not skip and argument != name and not argument.startswith(f"{name}="):
            kept.append(argument)
        skip = argument == name and not skip
    return kept


@contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    """Sets variables that are not set, for as long as the context lasts."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]

"""Joins the processes of one run: those that torchrun started, or that `sae run --devices` did.

torchrun tells a process its number and where the others are in environment variables. On one machine the variable
:data:`MEETING_FILE` names a file in place of an address, so that no port is opened to the network.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch

from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError

MEETING_FILE = "SAE_MEETING_FILE"
"""The environment variable with the path of the file by which the processes of one machine find each other."""
EXCHANGE = timedelta(minutes=30)
"""How long an exchange may take before the others are taken for lost."""

_Result = TypeVar("_Result")


def number_and_count() -> tuple[int, int]:
    """The number of this process among those that were started together, and how many there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> Processes:
    """All processes that were started together; :data:`ALONE` where this one was started without others.

    Raises `UserError` where they do not find each other.
    """
    import torch.distributed as distributed

    rank, size = number_and_count()
    if size == 1:
        return ALONE
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(own_device())
        file = os.environ.get(MEETING_FILE)
        if file is not None:
            _use_loopback()
        where = "env://" if file is None else f"file://{file}"
        try:
            distributed.init_process_group(backend, init_method=where, rank=rank, world_size=size, timeout=EXCHANGE)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"process {rank + 1} of {size}: does not find the others ({reason}); start all") from None
        atexit.register(distributed.destroy_process_group)  # or its threads end the process with an error
    return Processes.all()


def own_device() -> str:
    """The GPU of this process on its machine, or the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"process {number + 1} of this machine, which has {count} GPUs: start fewer, or set device = 'cpu'"
        )
    return f"cuda:{number}"


def after_first(processes: Processes, work: Callable[[], _Result]) -> _Result:
    """The result of `work`, which the first process does before the others, so that they find what it has written."""
    if processes.is_first:
        result = work()
        processes.wait_for_first()
        return result
    processes.wait_for_first()
    return work()


def _use_loopback() -> None:
    """Has gloo exchange tensors without a network; processes of one machine need none."""
    name = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)

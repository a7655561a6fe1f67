"""Threads that stand in for processes: the same exchanges without starting Python anew for each of them.

Exchanges by torch.distributed itself are tested with real processes in tests/training/test_processes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier, BrokenBarrierError
from typing import Any, TypeVar

from torch import Tensor

from sae.numerics.processes import Processes

T = TypeVar("T")
SECONDS = 60.0
"""How long a thread waits for the others, before a test fails."""


class _Shared:
    """What the threads of a group share."""

    def __init__(self, size: int) -> None:
        self.barrier = Barrier(size, timeout=SECONDS)
        self.offered: list[Any] = [None] * size
        self.queues = {(a, b): SimpleQueue[Tensor]() for a in range(size) for b in range(size)}
        self.parts: dict[tuple[int, int], _Shared] = {}


class Threads(Processes):
    """A group of threads, as one of them sees it."""

    def __init__(self, shared: _Shared, rank: int, size: int) -> None:
        super().__init__(None, rank, size)
        self.shared = shared

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        self.shared.offered[self.rank] = tensor.clone()
        self.shared.barrier.wait()
        every = [each.clone() for each in self.shared.offered]
        self.shared.barrier.wait()
        return every

    def _sum_over_group(self, tensor: Tensor) -> None:
        total = sum(self._exchange(tensor))
        assert isinstance(total, Tensor)
        tensor.copy_(total)

    def _gather_from_group(self, tensor: Tensor) -> list[Tensor]:
        every = self._exchange(tensor)
        assert len({(each.shape, each.dtype) for each in every}) == 1, "tensors of one shape are gathered"
        return every

    def _send(self, tensor: Tensor, to: int) -> None:
        self.shared.queues[self.rank, to].put(tensor.clone())

    def _receive(self, into: Tensor, sender: int) -> Tensor:
        return into.copy_(self.shared.queues[sender, self.rank].get(timeout=SECONDS))

    def _broadcast(self, tensor: Tensor) -> None:
        tensor.copy_(self._exchange(tensor)[0])

    def wait_for_all(self) -> None:
        self.shared.barrier.wait()

    def tell(self, message: str) -> str:
        self.shared.offered[self.rank] = message
        self.shared.barrier.wait()
        told = self.shared.offered[0]
        self.shared.barrier.wait()
        return told

    def _small(self, tensor: Tensor) -> Tensor:
        return tensor

    def _new_part(self, n_parts: int) -> Processes:
        each = self.size // n_parts
        key = n_parts, self.rank // each
        part = self.shared.parts.setdefault(key, _Shared(each))
        return Threads(part, self.rank % each, each)


def run_as_processes(size: int, work: Callable[[Processes], T]) -> list[T]:
    """The results of `work` on `size` threads, in the order of their ranks; raises what the first of them raises."""
    shared = _Shared(size)

    def one(rank: int) -> T:
        try:
            return work(Threads(shared, rank, size))
        except BaseException:
            for group in (shared, *shared.parts.values()):
                group.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]

"""Processes that work on one thing together, by torch.distributed: sums, gathered tensors and groups of processes.

:data:`ALONE` is one process without others, for which every exchange is the identity, so that the same code serves one
process and many. Tensors on a CPU travel by gloo, tensors on a GPU by NCCL. Every process of a group must call the same
methods in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from jaxtyping import Shaped
from torch import Tensor

from sae.registry import UserError


class Processes:
    """A group of processes, as one of them sees it."""

    def __init__(self, group: Any = None, rank: int = 0, size: int = 1, patient: Any = None) -> None:
        """`group` is that of torch.distributed, None for a single process; `patient` one of the same processes in which
        others may wait for the first as long as its work takes."""
        self.rank = rank
        """The number of this process in the group, from 0."""
        self.size = size
        """The number of processes."""
        self.seconds = 0.0
        """Seconds that this process spent in exchanges, among them waiting for the others. On a GPU, where the host
        does not wait, only those of starting them."""
        self._group, self._patient = group, patient
        self._parts: dict[int, Processes] = {}

    @classmethod
    def all(cls) -> Processes:
        """All processes that were started together; :data:`ALONE` where torch.distributed has not been initialised."""
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return ALONE
        patient = distributed.new_group(backend="gloo", timeout=PATIENCE)
        return cls(distributed.group.WORLD, distributed.get_rank(), distributed.get_world_size(), patient)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, n_parts: int) -> Processes:
        """The part of the group that this process belongs to, of `n_parts` parts of consecutive processes."""
        assert self.size % n_parts == 0, "parts have equal numbers of processes"
        if n_parts == 1 or self.size == 1:
            return self
        if n_parts == self.size:
            return ALONE
        if n_parts not in self._parts:
            self._parts[n_parts] = self._new_part(n_parts)
        return self._parts[n_parts]

    def _new_part(self, n_parts: int) -> Processes:
        each = self.size // n_parts
        groups = [
            distributed.new_group([self._number(r) for r in range(i * each, (i + 1) * each)]) for i in range(n_parts)
        ]
        return Processes(groups[self.rank // each], self.rank % each, each)

    def _number(self, rank: int) -> int:
        """The number among all processes of a process of this group."""
        return distributed.get_global_rank(self._group, rank)

    def sum_(self, *tensors: Tensor) -> None:
        """Replaces tensors by their sums over the processes; the sums are the same bits everywhere.

        Several tensors of one type travel as one, which suits small ones.
        """
        if self.size == 1 or not tensors:
            return
        [one, *others] = tensors
        together = one if not others and one.is_contiguous() else torch.cat([t.flatten() for t in tensors])
        with self._timed():
            self._sum_over_group(together)
        if together is not one:
            for tensor, total in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def total(self, number: float) -> float:
        """The sum of numbers, in double precision."""
        return sum(self.numbers(number))

    def numbers(self, number: float) -> list[float]:
        """The numbers of all processes, in their order."""
        if self.size == 1:
            return [number]
        return [float(t) for t in self.gather(self._small(torch.tensor(number, dtype=torch.float64)))]

    def any(self, flag: bool | Tensor) -> bool:
        """Whether the flag of any process is set."""
        return bool(flag) if self.size == 1 else max(self.numbers(float(flag))) > 0

    def gather(self, tensor: Shaped[Tensor, "*shape"]) -> list[Tensor]:
        """The tensors of all processes, in their order; they have one shape."""
        if self.size == 1:
            return [tensor]
        whole = tensor.contiguous()
        with self._timed():
            return self._gather_from_group(whole)

    def gather_rows(self, tensor: Shaped[Tensor, "rows *shape"]) -> list[Tensor]:
        """The tensors of all processes, in their order; their numbers of rows may differ."""
        if self.size == 1:
            return [tensor]
        counts = [int(n) for n in self.numbers(float(len(tensor)))]
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        return [rows[:n] for rows, n in zip(self.gather(padded), counts, strict=True)]

    def send_to_first(self, tensor: Tensor | None, sender: int) -> Tensor | None:
        """Passes the tensor of the process `sender` to the first, on the CPU; None for all others."""
        if sender == 0 or self.size == 1:
            return tensor if self.rank == 0 else None
        if self.rank not in (0, sender):
            return None
        with self._timed():
            if self.rank == sender:
                assert tensor is not None
                own = tensor.cpu().contiguous()
                for part in (torch.tensor([_DTYPES.index(own.dtype), own.ndim]), torch.tensor(own.shape), own):
                    self._send(part, 0)
                return None
            kind, n_axes = self._receive(torch.empty(2, dtype=torch.int64), sender).tolist()
            shape = self._receive(torch.empty(n_axes, dtype=torch.int64), sender).tolist()
            return self._receive(torch.empty(shape, dtype=_DTYPES[kind]), sender)

    def wait_for_all(self) -> None:
        """Returns once every process has called it, however long their work takes."""
        if self.size > 1:
            with self._timed():
                distributed.all_reduce(torch.zeros(1), group=self._patient or self._group)

    def from_first(self, tensor: Tensor) -> Tensor:
        """The tensor of the first process; the others give one of the same shape and type, which is overwritten."""
        if self.size > 1:
            tensor = tensor.contiguous()
            with self._timed():
                self._broadcast(tensor)
        return tensor

    def wait_for_first(self) -> None:
        """Returns once the first process has called it, however long it has been working alone."""
        self.tell("")

    def tell(self, message: str) -> str:
        """Passes a message of the first process to all others, which wait for it as long as it takes; returns it."""
        if self.size == 1:
            return message
        content = torch.frombuffer(bytearray(message.encode() + b" "), dtype=torch.uint8)
        size = torch.tensor(len(content))
        with self._timed():
            distributed.broadcast(size, self._number(0), group=self._patient)
            content = content if self.is_first else torch.empty(int(size), dtype=torch.uint8)
            distributed.broadcast(content, self._number(0), group=self._patient)
        return bytes(content.tolist()).decode()[:-1]

    def _sum_over_group(self, tensor: Tensor) -> None:
        distributed.all_reduce(tensor, group=self._group)

    def _gather_from_group(self, tensor: Tensor) -> list[Tensor]:
        every = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(every, tensor, group=self._group)
        return every

    def _broadcast(self, tensor: Tensor) -> None:
        distributed.broadcast(tensor, self._number(0), group=self._group)

    def _send(self, tensor: Tensor, to: int) -> None:
        distributed.send(tensor, self._number(to), group=self._group)

    def _receive(self, into: Tensor, sender: int) -> Tensor:
        distributed.recv(into, self._number(sender), group=self._group)
        return into

    def _small(self, tensor: Tensor) -> Tensor:
        """A tensor where the group can exchange it: on the GPU where the group knows no other devices."""
        backend = distributed.get_backend_config(self._group)
        return tensor if "gloo" in str(backend) else tensor.to("cuda")

    @contextmanager
    def _timed(self) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"process {self.rank + 1} of {self.size}: an exchange with the others failed ({reason}), probably "
                "because one of them has ended; run the same command again to continue from the last checkpoint"
            ) from error
        finally:
            self.seconds += time.perf_counter() - began


PATIENCE = timedelta(days=7)
"""How long processes wait for work that the first does alone. A process that ends closes its connections, which the
others notice at once."""
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool]

ALONE = Processes()
"""One process without others."""

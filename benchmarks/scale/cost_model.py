"""The cost of a training step of p processes: memory, work, communication, and what is the limit.

Samples are harvested in parallel, latents are trained in parallel. Each process runs the model on ``B / p`` samples of
a batch and gathers the others; it holds the latents of its shard with their moments, encodes the whole batch for them
and decodes them, and an all-reduce adds the reconstructions. No gradient of a weight is exchanged. In numbers, for each
member whose latents are divided:

    all-gather   samples            B d          of a stream; stored samples are read by every process for itself
    all-reduce   reconstructions    B d          twice for gates, once for each level, once more with dead latents
    all-reduce   sums               d + 2        L0, penalty, and the encoder's part of the gradient of b_dec
    all-gather   candidates         k p B        TopK: the k largest of each process; over a batch about 2.5 k B in all
    all-gather   dead candidates    a p B        with dead latents, a = d / 2 by default
    all-gather   counts             2 p          whether latents are dead, how many, how many candidates: 8 bytes each

In sparse steps each is one collective, or one for each member where members are processed one by one. In dense steps
there is one for each block of samples and each group of members that are processed together.

The time of a step is ``harvest + max(sum of phases + sum of collectives, launches)``: nothing overlaps but the
launching of operations with their execution. Samples per second are B over it, and the efficiency of p processes is
their samples per second over p times those of one process, whether that one fits or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal

from benchmarks.scale.collectives import Collective, Group
from benchmarks.scale.devices import Assumptions, Device, Link
from benchmarks.scale.memory import dense_rows, held_bytes, members_at_once
from benchmarks.scale.setting import FLOAT, OVER_BATCH, SELECTING, Division, Setting
from benchmarks.scale.work import Phase, dense_step, is_sparse, operations, sparse_step

DOUBLE = 8
"""Bytes of a count that processes tell each other."""
FOUND = 2.5
"""Codes above the floor from which the search for the threshold of a batch starts, over those that are kept: assumed,
for trained dictionaries. Processes offer each other `p` times those that are kept at most."""
Path = Literal["dense", "sparse"]
Limit = Literal["compute", "memory bandwidth", "communication", "launches", "harvest"]
"""What takes the largest part of a step."""


@dataclass(frozen=True)
class Machines:
    """Equal nodes of equal devices."""

    device: Device
    """Each device."""
    link: Link
    """What connects the devices of a node."""
    network: Link
    """What connects nodes."""
    per_node: int = 8
    """The number of devices of a node."""
    assumptions: Assumptions = field(default_factory=Assumptions)
    """What is taken for granted."""

    def group(self, size: int) -> Group:
        """A group of consecutive processes."""
        return Group(size, self.per_node, self.link, self.network)


@dataclass(frozen=True)
class Cost:
    """The cost of one step on each of p processes."""

    division: Division
    """How the work is divided."""
    machines: Machines
    """Where it runs."""

    @property
    def is_sparse(self) -> bool:
        """The path that the engine takes."""
        return is_sparse(self.division, self.machines.device.is_gpu)

    @property
    def memory(self) -> dict[str, float]:
        """Bytes on each device by what they are for."""
        return held_bytes(self.division, self.machines.device, self.machines.assumptions)

    @property
    def fits(self) -> bool:
        """Whether they fit."""
        usable = self.machines.assumptions.usable_memory * self.machines.device.memory.value
        return sum(self.memory.values()) <= usable

    def phases(self, path: Path) -> list[Phase]:
        """The work of a step on a path. The dense path has no products in bfloat16."""
        is_gpu, precision = self.machines.device.is_gpu, self.division.setting.precision
        if path == "sparse":
            return sparse_step(self.division, is_gpu)
        return dense_step(self.division, is_gpu, "float32" if precision == "bfloat16" else precision)

    def collectives(self, path: Path | None = None) -> list[Collective]:
        """What a step exchanges, on the path that the engine takes by default."""
        s, d = self.division.setting, self.division
        world, shard = self.machines.group(d.processes), self.machines.group(d.shards)
        found = [Collective("samples", "all-gather", FLOAT * d.sample_entries, world)] if world.size > 1 else []
        if shard.size == 1:
            return found
        runs, blocks = self._pieces(path or self.path)
        pieces, decodings = runs * blocks, s.decodings + (1 if s.aux_k else 0)
        one = FLOAT * d.members * d.sample_entries
        found += [Collective("reconstructions", "all-reduce", one / pieces, shard)] * (decodings * pieces)
        if (path or self.path) == "sparse":
            found += [Collective("sums", "all-reduce", FLOAT * d.members * (s.d_in + 2) / runs, shard)] * runs
        else:
            found += [Collective("sums", "all-reduce", FLOAT * d.members * n / runs, shard) for n in (s.d_in, 2)] * runs
        if s.kind not in SELECTING:
            return found
        # Over a batch, one for each member.
        often = d.members if s.kind in OVER_BATCH else pieces
        per_row = min(FOUND, shard.size) * s.k if s.kind in OVER_BATCH else s.k * shard.size
        found += [Collective("candidates", "all-gather", FLOAT * d.members * s.batch * per_row / often, shard)] * often
        counts = 1 + (d.members if s.kind in OVER_BATCH else 0)
        if s.aux_k:
            offered = FLOAT * s.batch * s.aux_k * shard.size / blocks
            found += [Collective("dead candidates", "all-gather", offered, shard)] * (d.members * blocks)
            counts += d.members * blocks
        return [*found, *[Collective("counts", "all-gather", DOUBLE * shard.size, shard)] * counts]

    def _pieces(self, path: Path) -> tuple[int, int]:
        """The groups of members that a path processes one after the other, and the blocks of samples."""
        d, is_gpu = self.division, self.machines.device.is_gpu
        if path == "sparse":
            return (d.members if d.setting.one_by_one else 1), 1
        return ceil(d.members / members_at_once(d, is_gpu)), ceil(d.setting.batch / dense_rows(d, is_gpu))

    def communication(self, path: Path | None = None) -> float:
        """Seconds of a step in which processes wait for each other's numbers."""
        return sum(one.seconds for one in self.collectives(path))

    @property
    def harvest(self) -> float:
        """Seconds of a step in which the model runs on a process's rows."""
        rows = self.division.setting.batch / self.division.processes
        rate = self.machines.device.products["bfloat16"].value * self.machines.assumptions.model_share
        return rows * self.division.setting.model_flops / rate

    def work(self, path: Path) -> float:
        """Seconds of the phases of a path."""
        device, assumptions = self.machines.device, self.machines.assumptions
        return sum(phase.seconds(device, assumptions) for phase in self.phases(path))

    def launches(self, path: Path) -> float:
        """Seconds in which Python launches the operations of a step on a GPU."""
        if not self.machines.device.is_gpu:
            return 0.0
        return self.machines.assumptions.launch * operations(self.division, is_gpu=True, sparse=path == "sparse")

    def seconds(self, path: Path | None = None) -> float:
        """Seconds of a step, on the path that the engine takes by default."""
        path = path or self.path
        return max(self.work(path) + self.communication(path), self.launches(path)) + self.harvest

    def samples_per_s(self, path: Path | None = None) -> float:
        """Samples per second over all processes; every member is trained on all of them."""
        return self.division.setting.batch / self.seconds(path)

    def dense_products_per_s(self) -> float:
        """Samples per second if the products of a dense step, in bfloat16 at the peak, were all: a limit for trainers
        that do not use sparsity."""
        products = self.phases("dense")[0].flops / self.machines.device.products["bfloat16"].value
        return self.division.setting.batch / products

    @property
    def path(self) -> Path:
        """The path that the engine takes."""
        return "sparse" if self.is_sparse else "dense"

    def shares(self) -> dict[Limit, float]:
        """The shares of the step's time; a phase counts for what limits it, and launches for the time that they add."""
        device, assumptions = self.machines.device, self.machines.assumptions
        parts = [phase.parts(device, assumptions) for phase in self.phases(self.path)]
        seconds: dict[Limit, float] = {
            "compute": sum(flops for flops, memory in parts if flops >= memory),
            "memory bandwidth": sum(memory for flops, memory in parts if memory > flops),
            "communication": self.communication(),
            "launches": max(0.0, self.launches(self.path) - self.work(self.path) - self.communication()),
            "harvest": self.harvest,
        }
        total = sum(seconds.values())
        return {limit: part / total for limit, part in seconds.items()}

    @property
    def binds(self) -> Limit:
        """What takes the largest part of a step."""
        shares = self.shares()
        return max(shares, key=lambda limit: shares[limit])


def cost(setting: Setting, machines: Machines, processes: int) -> Cost:
    """The cost on `processes` processes."""
    return Cost(Division(setting, processes), machines)


def efficiency(of: Cost) -> float:
    """Samples per second of p processes, over p times those of one process."""
    one = cost(of.division.setting, of.machines, 1)
    return of.samples_per_s() / (of.division.processes * one.samples_per_s())


def data_parallel(of: Cost) -> Collective:
    """What data parallelism exchanges instead: an all-reduce of the gradients of both matrices, 2 N d numbers of each
    member, whatever the batch."""
    s = of.division.setting
    group = of.machines.group(of.division.processes)
    return Collective("gradients", "all-reduce", FLOAT * 2.0 * s.members * s.n_latents * s.d_in, group)


def fully_sharded(of: Cost) -> list[Collective]:
    """What fully sharded data parallelism exchanges instead: the weights are gathered for the forward and again for the
    backward pass, and the gradients are reduced to their owners."""
    all_numbers, group = data_parallel(of).n_bytes, of.machines.group(of.division.processes)
    return [
        Collective("weights", "all-gather", all_numbers, group),
        Collective("weights", "all-gather", all_numbers, group),
        Collective("gradients", "reduce-scatter", all_numbers, group),
    ]


def least_width(setting: Setting, machines: Machines, processes: int, least: float = 0.5) -> int | None:
    """The number of latents of a dictionary, a power of two from 2^10 on, from which on the efficiency is at least
    `least`, leaving out the harvest; None beyond 2^26."""
    found = None
    for exponent in range(26, 9, -1):
        n_latents = 1 << exponent
        if n_latents < max(processes, setting.k):
            break
        alone = replace(setting, n_latents=n_latents, members=1, model_flops=0.0)
        if efficiency(cost(alone, machines, processes)) < least:
            break
        found = n_latents
    return found

"""What devices and links can do: every number with its source, and the shares of it that a plan assumes.

Rates of GPUs are those of datasheets, without structured sparsity; those of links are what NCCL is reported to reach.
Nothing here was measured by this project, but for :func:`this_cpu`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "tf32", "bfloat16"]
"""The arithmetic of a matrix product."""


@dataclass(frozen=True)
class Sourced:
    """A number and where it is from."""

    value: float
    """The number, in the unit of the field that it is in."""
    source: str
    """A page, a file or a command."""


@dataclass(frozen=True)
class Device:
    """A device that one process trains on."""

    name: str
    """The name, for people."""
    products: Mapping[Precision, Sourced]
    """Matrix products, in FLOP/s, by their arithmetic."""
    memory_bandwidth: Sourced
    """Reads and writes of its memory, in bytes/s."""
    memory: Sourced
    """The size of its memory, in bytes."""
    is_gpu: bool = True
    """Whether the kernels for GPUs run on it."""
    is_measured: bool = False
    """Whether the rates are measured, not those of a datasheet."""


@dataclass(frozen=True)
class Link:
    """What connects devices: ring and tree collectives need ``latency + bytes / bandwidth``."""

    name: str
    """The name, for people."""
    bandwidth: Sourced
    """What one device sends while it receives as much, in bytes/s."""
    hop: Sourced
    """The time of a step to the next device in a ring, with the protocol for large messages, in seconds."""
    short_hop: Sourced
    """The same with the protocol for small messages."""
    tree_hop: Sourced
    """The time of a step in a tree, with the protocol for small messages."""
    of_a_node: bool = False
    """Whether the devices of a node share one such link; otherwise each has its own."""


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted. Nothing overlaps: times of products, memory, links and the model are added."""

    product_share: float = 0.8
    """The share of the peak that matrix products reach. `python -m benchmarks.gpu --only device` measures it."""
    memory_share: float = 0.9
    """The share of the memory's bandwidth that kernels reach; measured in the same way for copies."""
    model_share: float = 0.4
    """The share of the bfloat16 peak that the forward pass of the model reaches."""
    launch: float = 5e-6
    """Seconds that Python needs to launch an operation on a GPU."""
    usable_memory: float = 0.92
    """The share of a device's memory that tensors can fill; the rest is the driver's, the libraries' and fragments."""
    prefetched: int = 9
    """The batches on their way to a GPU, one more than there are threads that fetch them (sae/training/prefetch.py)."""


AT_PEAK = Assumptions(product_share=1.0, memory_share=1.0, model_share=1.0, launch=0.0)
"""Everything as fast as the datasheet: a limit, not a prediction."""

_H100 = "NVIDIA H100 datasheet, SXM (as tabled on https://glennklockwood.com/garden/processors/h100)"
_H200 = "NVIDIA H200 datasheet, SXM (as tabled on https://aiwiki.ai/wiki/nvidia_h200); the chip of the H100"
_A100 = "NVIDIA A100 datasheet, 80 GB SXM (as tabled on https://glennklockwood.com/garden/processors/A100)"


def _rates(float32: float, tf32: float, bfloat16: float, source: str) -> dict[Precision, Sourced]:
    """Rates in TFLOP/s."""
    return {
        "float32": Sourced(float32 * 1e12, source),
        "tf32": Sourced(tf32 * 1e12, source),
        "bfloat16": Sourced(bfloat16 * 1e12, source),
    }


DEVICES: Mapping[str, Device] = {
    "h100": Device("H100 SXM", _rates(66.9, 494.7, 989.4, _H100), Sourced(3.35e12, _H100), Sourced(80e9, _H100)),
    "h200": Device("H200 SXM", _rates(66.9, 494.7, 989.4, _H100), Sourced(4.8e12, _H200), Sourced(141e9, _H200)),
    "a100": Device("A100 80 GB SXM", _rates(19.5, 156, 312, _A100), Sourced(2.039e12, _A100), Sourced(80e9, _A100)),
}
"""GPUs by the names that `--device` takes."""

_TUNING = "https://github.com/NVIDIA/nccl/blob/01afd20/src/graph/tuning.cc"
_LL = f"{_TUNING}: protocol LL"
_SIMPLE = f"{_TUNING}: protocol Simple"

RING_START, SHORT_RING_START, TREE_START = Sourced(8.4e-6, _SIMPLE), Sourced(3.6e-6, _LL), Sourced(4.4e-6, _LL)
"""Seconds before the first step of a ring, of a ring for small messages, and of a tree for them."""
SHORT_SHARE = Sourced(0.25, f"{_LL}, of which each second word is a flag")
"""The share of the bandwidth that the protocol for small messages reaches."""


def _hops(ring: float, short: float, tree: float) -> tuple[Sourced, Sourced, Sourced]:
    """Latencies in microseconds."""
    return Sourced(ring * 1e-6, _SIMPLE), Sourced(short * 1e-6, _LL), Sourced(tree * 1e-6, _LL)


_NVLINK, _PCI, _NET = _hops(3.4, 0.47, 0.52), _hops(5.7, 1.0, 1.0), _hops(9.6, 2.7, 5.0)
_ISSUES = "https://github.com/NVIDIA"

LINKS: Mapping[str, Link] = {
    "nvlink": Link(
        "NVLink 4",
        Sourced(370e9, f"{_ISSUES}/nccl-tests/issues/212: of 450 GB/s, in a ring, as a maintainer of NCCL states"),
        *_NVLINK,
    ),
    "nvlink3": Link("NVLink 3", Sourced(235e9, f"{_TUNING}: of 300 GB/s, the limit for an A100"), *_NVLINK),
    "pcie": Link("PCIe 5 x16", Sourced(51e9, "0.8 of the 64 GB/s of the standard, assumed"), *_PCI),
    "ib400": Link(
        "InfiniBand 400 Gb/s",
        Sourced(46e9, f"{_ISSUES}/nccl-tests/issues/290: 46 to 48 GB/s, as a maintainer of NCCL states"),
        *_NET,
    ),
    "ib200": Link(
        "InfiniBand 200 Gb/s",
        Sourced(24e9, f"{_ISSUES}/nccl/issues/412: as a maintainer of NCCL states"),
        *_NET,
    ),
    "ethernet": Link(
        "Ethernet 100 Gb/s",
        Sourced(12.2e9, f"{_ISSUES}/nccl-tests/issues/29: as much as a 100 Gb/s card can give; over TCP less"),
        *_NET,
        of_a_node=True,
    ),
}
"""Links by the names that `--link` and `--network` take."""


def this_cpu(threads: int = 1) -> Device:
    """The CPU of this machine, with rates that are measured now, on `threads` threads for each process."""
    import torch

    from benchmarks.clock import mean_seconds
    from benchmarks.lines import machine
    from benchmarks.roofline import Roofline
    from sae.numerics.memory import memory_of

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        roofline = Roofline(d_in=512, n_latents=4096, batch=1024, at_least=0.2)
        rate = roofline.flops / roofline.seconds()
        here = torch.empty(_COPIED, dtype=torch.uint8)
        there = torch.zeros_like(here)
        bandwidth = 2 * _COPIED / mean_seconds(lambda: there.copy_(here), at_least=0.2)
    finally:
        torch.set_num_threads(before)
    how = f"measured on {machine('cpu')}, threads: {threads}"
    products = dict.fromkeys(("float32", "tf32", "bfloat16"), Sourced(rate, f"{how}: products of float32"))
    size = Sourced(float(memory_of("cpu")), how)
    return Device(how.removeprefix("measured on "), products, Sourced(bandwidth, how), size, False, True)


_COPIED = 1 << 28
"""The bytes that are copied, more than fits into a cache."""

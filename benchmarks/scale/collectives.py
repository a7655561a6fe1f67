"""The time of collectives between devices: latency + bytes / bandwidth, as NCCL's own model of them.

For p devices on h nodes and a result of n bytes, a ring takes

    all-reduce   2 (p - 1) steps, 2 (h - 1) of them between nodes;  each device sends 2 (p - 1) / p n bytes
    all-gather     (p - 1) steps,   (h - 1) of them between nodes;  each device sends   (p - 1) / p n bytes
    time         start + steps within a node * hop + steps between nodes * hop of the network + sent / bandwidth

(Patarasuk and Yuan 2009). Small messages go by a protocol with shorter steps and a fraction of the bandwidth, and an
all-reduce of them through a tree of ``2 (devices of a node - 1)`` steps within a node and ``2 log2 h`` between nodes:
the fastest counts. Rings leave a node through all of its network cards at once, so that its devices share the
bandwidth of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from benchmarks.scale.devices import RING_START, SHORT_RING_START, SHORT_SHARE, TREE_START, Link

Kind = Literal["all-reduce", "all-gather", "reduce-scatter"]
"""The collectives; a reduce-scatter takes what an all-gather takes."""


@dataclass(frozen=True)
class Group:
    """Processes that exchange something: consecutive ones, one for each device."""

    size: int
    """The number of processes."""
    per_node: int
    """The number of devices of a node."""
    link: Link
    """What connects the devices of a node."""
    network: Link
    """What connects nodes."""

    @property
    def n_nodes(self) -> int:
        """The number of nodes that the group is on."""
        return ceil(self.size / self.per_node)

    @property
    def bandwidth(self) -> float:
        """What each device sends at the same time as it receives, in bytes/s."""
        if self.n_nodes == 1:
            return self.link.bandwidth.value
        cards = 1 if self.network.of_a_node else min(self.size, self.per_node)
        return min(self.link.bandwidth.value, cards * self.network.bandwidth.value)


@dataclass(frozen=True)
class Collective:
    """One collective of a step."""

    what: str
    """What is exchanged."""
    kind: Kind
    """How."""
    n_bytes: float
    """The bytes of its result: the numbers that are summed, or all those that are gathered."""
    group: Group
    """Between which processes."""

    @property
    def sent_bytes(self) -> float:
        """The bytes that each device sends, by a ring."""
        return self._rounds * (self.group.size - 1) / self.group.size * self.n_bytes

    @property
    def seconds(self) -> float:
        """The time, by the fastest of the ways."""
        if self.group.size == 1 or not self.n_bytes:
            return 0.0
        group, link, network = self.group, self.group.link, self.group.network
        between = self._rounds * (group.n_nodes - 1)
        within = self._rounds * (group.size - 1) - between
        wire = self.sent_bytes / group.bandwidth
        ways = [
            RING_START.value + within * link.hop.value + between * network.hop.value + wire,
            SHORT_RING_START.value
            + within * link.short_hop.value
            + between * network.short_hop.value
            + wire / SHORT_SHARE.value,
        ]
        if self.kind == "all-reduce":
            within = 2 * (min(group.size, group.per_node) - 1)
            between = 2 * ceil(log2(group.n_nodes))
            hops = within * link.tree_hop.value + between * network.tree_hop.value
            ways.append(TREE_START.value + hops + wire / SHORT_SHARE.value)
        return min(ways)

    @property
    def _rounds(self) -> int:
        return 2 if self.kind == "all-reduce" else 1

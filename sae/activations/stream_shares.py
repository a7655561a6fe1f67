"""Which process computes which activations of a stream that several processes read together.

The rows of a window are divided in forward passes, in turn: the same rows go through the model together whatever the
number of processes, so that activations do not depend on it. Each process keeps what it has computed. To read samples,
every process offers those that it has, and all get all of them: ``B d`` numbers for a batch of B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.window_order import WindowOrder, WindowPlaces
from sae.numerics.processes import Processes


@dataclass(frozen=True, eq=False)
class EverySample:
    """The share of a process that reads a stream alone."""

    order: WindowOrder
    """The order of the stream."""

    def rows(self, window: int) -> NDArray[np.int64]:
        """The rows of a window that this process runs the model over."""
        return self.order.rows(window)

    def places(self, window: int) -> WindowPlaces:
        """Where the activations of those rows belong, among the samples of this process."""
        return self.order.places(window)

    def n_held(self, segment: int) -> int:
        """The number of samples of a segment that are in the memory of this process."""
        return self.order.segment_size(segment)

    def read(self, segment: int, columns: Mapping[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
        """The samples `begin` to `end` of a segment, of which this process has the `columns` of its own."""
        return {name: column[begin:end] for name, column in columns.items()}


class SegmentOwners(NamedTuple):
    """Where the samples of a segment are."""

    owner: NDArray[np.int64]
    """The process that has each sample."""
    place: NDArray[np.int64]
    """Its place among the samples of that process."""


@dataclass(frozen=True, eq=False)
class OwnSamples:
    """The share of one of several `processes`, with the methods of :class:`EverySample`."""

    order: WindowOrder
    """The order of the stream."""
    processes: Processes
    """The processes that read it together."""
    rows_at_once: int
    """The number of rows in a forward pass."""
    _places: Callable[[int], WindowPlaces] = field(init=False)
    _owners: Callable[[int], SegmentOwners] = field(init=False)

    def __post_init__(self) -> None:
        # Those of the segments in memory are asked for again and again.
        object.__setattr__(self, "_places", lru_cache(maxsize=3)(self.order.places))
        object.__setattr__(self, "_owners", lru_cache(maxsize=4)(self._owners_in))

    def rows(self, window: int) -> NDArray[np.int64]:
        rows = self.order.rows(window)
        return rows[self._owner_of_row(len(rows)) == self.processes.rank]

    def places(self, window: int) -> WindowPlaces:
        every, own = self._places(window), self._owner(window) == self.processes.rank
        position = every.position[own].copy()
        for segment, belongs in ((window, ~every.later[own]), (window + 1, every.later[own])):
            position[belongs] = self._owners(segment).place[position[belongs]]
        return WindowPlaces(every.later[own], position)

    def n_held(self, segment: int) -> int:
        return int((self._owners(segment).owner == self.processes.rank).sum())

    def read(self, segment: int, columns: Mapping[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
        owner, place = (each[begin:end] for each in self._owners(segment))
        own = torch.from_numpy(place[owner == self.processes.rank])
        counts = np.bincount(owner, minlength=self.processes.size)
        read: dict[str, Tensor] = {}
        for name, column in columns.items():
            offered = column.new_zeros(int(counts.max()), *column.shape[1:])
            offered[: len(own)] = column.index_select(0, own.to(column.device))
            # As bytes, because not every way to exchange tensors knows every type.
            every = self.processes.gather(offered.view(torch.uint8)) if offered.numel() else []
            read[name] = column.new_empty(end - begin, *column.shape[1:])
            for rank, samples in enumerate(every):
                to = torch.from_numpy(np.flatnonzero(owner == rank)).to(column.device)
                read[name][to] = samples.view(column.dtype)[: counts[rank]]
        return read

    def _owner_of_row(self, n_rows: int) -> NDArray[np.int64]:
        return np.arange(n_rows) // self.rows_at_once % self.processes.size

    def _owner(self, window: int) -> NDArray[np.int64]:
        """The process that computes each activation of a window."""
        rows = self.order.rows(window)
        return np.repeat(self._owner_of_row(len(rows)), self.order.counts[rows])

    def _owners_in(self, number: int) -> SegmentOwners:
        owner = np.zeros(self.order.segment_size(number), np.int64)
        for window in (number - 1, number):
            if window >= 0:
                places, of = self._places(window), self._owner(window)
                belongs = places.later if window < number else ~places.later
                owner[places.position[belongs]] = of[belongs]
        place = np.empty_like(owner)
        for rank in range(self.processes.size):
            place[owner == rank] = np.arange(int((owner == rank).sum()))
        return SegmentOwners(owner, place)

"""The order in which streamed activations are visited: windows of rows, mixed over two neighbours.

The rows of tokens are shuffled, and cut into windows of `rows_per_window` rows. A window's activations are permuted;
its earlier half joins the later half of the window before it in one *segment*, which is permuted again:

    segment s = shuffle(later half of window s - 1, earlier half of window s)

so that a row's activations are spread over two segments, and each activation is visited once per epoch. The next epoch
shuffles the rows anew; its windows are counted on. Everything follows from the number of kept activations in each row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae.numerics.seeds import Permutation, derive


class WindowPlaces(NamedTuple):
    """Where the activations of a window belong, in the order of its rows."""

    later: NDArray[np.bool_]
    """Whether an activation belongs to the segment after that of the window's own number."""
    position: NDArray[np.int64]
    """Its position in that segment."""


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """Windows, segments and the places of activations, as pure functions of the seed."""

    counts: NDArray[np.int64]
    """The number of kept activations in each row of tokens."""
    rows_per_window: int
    """The number of rows in a window."""
    seed: int
    """The seed of all permutations."""
    _sizes_of_epochs: dict[int, NDArray[np.int64]] = field(default_factory=dict[int, NDArray[np.int64]], init=False)

    @cached_property
    def n_samples(self) -> int:
        """The number of activations in an epoch."""
        return int(self.counts.sum())

    @property
    def n_windows(self) -> int:
        """The number of windows in an epoch."""
        return -(-len(self.counts) // self.rows_per_window)

    def rows(self, window: int) -> NDArray[np.int64]:
        """The rows of a window, in the order in which the model reads them."""
        epoch, place = divmod(window, self.n_windows)
        begin = place * self.rows_per_window
        index = np.arange(begin, min(begin + self.rows_per_window, len(self.counts)))
        return Permutation(len(self.counts), derive("window rows", self.seed, epoch))(index)

    def size(self, window: int) -> int:
        """The number of activations of a window; 0 for the one before the first."""
        epoch, place = divmod(window, self.n_windows)
        return 0 if window < 0 else int(self._sizes(epoch)[place])

    def segment_size(self, segment: int) -> int:
        """The number of activations in a segment."""
        return self._later(segment - 1) + self._earlier(segment)

    def segment_start(self, segment: int) -> int:
        """The number of activations in the segments before one."""
        epoch, place = divmod(segment, self.n_windows)
        return epoch * self.n_samples + int(self._segment_starts(epoch)[place])

    def segment_of(self, sample: int) -> int:
        """The segment of a sample, by its number from the beginning of training."""
        epoch = sample // self.n_samples
        following = (epoch + 1) * self.n_windows
        if sample >= self.segment_start(following):
            return following
        within = sample - epoch * self.n_samples
        return epoch * self.n_windows + int(np.searchsorted(self._segment_starts(epoch), within, side="right")) - 1

    def places(self, window: int) -> WindowPlaces:
        """Where the activations of a window belong."""
        n = self.size(window)
        rank = Permutation(n, derive("window", self.seed, window))(np.arange(n))
        later = rank >= self._earlier(window)
        position = np.empty(n, dtype=np.int64)
        for belongs, segment, element in (
            (~later, window, self._later(window - 1) + rank[~later]),
            (later, window + 1, rank[later] - self._earlier(window)),
        ):
            order = Permutation(self.segment_size(segment), derive("segment", self.seed, segment))
            position[belongs] = order(element)
        return WindowPlaces(later, position)

    def _later(self, window: int) -> int:
        """The number of activations in the later half of a window."""
        return self.size(window) // 2

    def _earlier(self, window: int) -> int:
        """The number of activations in the earlier half of a window."""
        return self.size(window) - self._later(window)

    def _sizes(self, epoch: int) -> NDArray[np.int64]:
        """The number of activations of each window of an epoch."""
        if epoch not in self._sizes_of_epochs:
            n = len(self.counts)
            shuffled = self.counts[Permutation(n, derive("window rows", self.seed, epoch))(np.arange(n))]
            self._sizes_of_epochs[epoch] = np.add.reduceat(shuffled, np.arange(0, n, self.rows_per_window))
        return self._sizes_of_epochs[epoch]

    def _segment_starts(self, epoch: int) -> NDArray[np.int64]:
        """The number of activations before each segment, counted from the beginning of the epoch.

        Those of the later half of the window before a segment are in it. For the first segment they come from the
        epoch before, so its number is negative, but in the first epoch.
        """
        sizes = self._sizes(epoch)
        before = np.concatenate([[self.size(epoch * self.n_windows - 1)], sizes[:-1]])
        return np.cumsum(sizes) - sizes - before // 2

"""The choice between one thread and many for work that repeats."""

from __future__ import annotations


class Pace:
    """Chooses between one thread and many, by the time that recent work took with each.

    Many threads wait for the slowest of them, which takes long if other processes use the cores. Every `AGAIN`-th time
    the slower choice is tried again.
    """

    AGAIN = 50
    NEWEST = 0.3

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._times = 0

    def untried(self, threads: int) -> list[int]:
        """Which of `threads` and 1 have not been timed yet."""
        return [n for n in (threads, 1) if n not in self._seconds]

    def choose(self, threads: int) -> int:
        """The number of threads to use next: `threads` or 1."""
        self._times += 1
        if untried := self.untried(threads):
            return untried[0]
        faster, slower = sorted((threads, 1), key=self._seconds.__getitem__)
        return faster if self._times % self.AGAIN else slower

    def took(self, threads: int, seconds: float) -> None:
        """Records the time per byte of a piece of work, in an exponential moving average."""
        before = self._seconds.get(threads, seconds)
        self._seconds[threads] = before + self.NEWEST * (seconds - before)

"""A part of a stream that cannot be read past its end, whatever lengths are requested."""

from __future__ import annotations

from io import BufferedIOBase

from sae.registry import UserError


class Window:
    """The next `n` bytes of a stream."""

    def __init__(self, f: BufferedIOBase, n: int) -> None:
        self.f, self.left = f, n

    def read(self, n: int = -1) -> bytes:
        """Reads `n` bytes (-1: the rest). Longer reads raise `UserError` before memory is allocated for them."""
        if n > self.left:
            raise UserError(f"it announces {n} bytes where {self.left} are left")
        content = self.f.read(self.left if n < 0 else n)
        self.left -= len(content)
        return content

    def readline(self) -> bytes:
        content = self.f.readline(min(self.left, 2**16))
        self.left -= len(content)
        return content

    def tell(self) -> int:
        return self.f.tell()

    def skip(self, n: int) -> None:
        """Skips bytes."""
        self.f.seek(n, 1)
        self.left -= n

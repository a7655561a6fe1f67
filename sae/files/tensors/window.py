"""A part of a stream that cannot be left, whatever lengths are asked for."""

from __future__ import annotations

from io import BufferedIOBase

from sae.registry import UserError


class Window:
    """The bytes of a stream from where it stands on, `n` of them."""

    def __init__(self, f: BufferedIOBase, n: int) -> None:
        self.f, self.left = f, n

    def read(self, n: int = -1) -> bytes:
        """A length that is not there is refused before room is made for it."""
        if n > self.left:
            raise UserError(f"{n} bytes are announced where {self.left} are left")
        found = self.f.read(self.left if n < 0 else n)
        self.left -= len(found)
        return found

    def readline(self) -> bytes:
        found = self.f.readline(min(self.left, 2**16))
        self.left -= len(found)
        return found

    def tell(self) -> int:
        return self.f.tell()

    def skip(self, n: int) -> None:
        """Passes bytes unread."""
        self.f.seek(n, 1)
        self.left -= n

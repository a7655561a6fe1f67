"""One tensor in a file, and the tensors of one dictionary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sae.registry import UserError

_AT_ONCE = 4 * 2**20
"""Bytes that are read at a time."""
NAMELESS = "a tensor"


@runtime_checkable
class NumberFormat(Protocol):
    """A stream of numbers, to be read from its beginning on."""

    def readinto(self, into: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in its file. `open` gives a stream that begins with its first number; `by_columns` says
    that a matrix lies there column by column."""

    label: str
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    open: Callable[[], NumberFormat]
    by_columns: bool = False

    def read(self, dtype: torch.dtype | None = torch.float32, transposed: bool = False, finite: bool = True) -> Tensor:
        """The tensor in memory of its own, or its transpose, in another precision unless `dtype` is None.

        Only some rows are held beside what comes out. A ``ValueError`` names the tensor where its file ends early, or
        where a number of it is not finite and all must be.
        """
        lying = self.shape[::-1] if self.by_columns else self.shape
        turned = transposed != self.by_columns
        out = self._room(lying[::-1] if turned else lying, dtype or self.dtype)
        rows, done = out.T if turned else out.view(lying or (1,)), 0
        for block in self._blocks(lying or (1,)):
            if finite and block.is_floating_point() and not bool(torch.isfinite(block).all()):
                raise UserError(f"{self.label}: {self.name} holds NaN or infinite values")
            rows[done : done + len(block)] = block
            done += len(block)
        return out

    def named(self, name: str) -> StoredTensor:
        """The same under the name that it is kept by, for errors."""
        return replace(self, name=name) if self.name == NAMELESS else self

    def item(self) -> float | int | bool:
        """The one number of a tensor that has no more."""
        if math.prod(self.shape) != 1:
            raise UserError(f"{self.label}: {self.name} has shape {self.shape}, a single number is expected")
        return self.read(dtype=None).reshape(()).item()

    def _blocks(self, lying: tuple[int, ...]) -> Iterator[Tensor]:
        """Rows as they lie in the file, some at a time."""
        n_rows, *inner = lying
        width = math.prod(inner) * self.dtype.itemsize
        if n_rows == 0 or width == 0:
            return
        at_once = max(1, _AT_ONCE // width)
        with closing(self.open()) as f:
            for start in range(0, n_rows, at_once):
                n = min(at_once, n_rows - start)
                buffer = bytearray(n * width)
                self._fill(f, memoryview(buffer))
                yield torch.frombuffer(buffer, dtype=self.dtype).view(n, *inner)

    def _fill(self, f: NumberFormat, into: memoryview) -> None:
        while into:
            n = f.readinto(into)
            if not n:
                raise UserError(f"{self.label}: ends before the end of {self.name}")
            into = into[n:]

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        try:
            return torch.empty(shape, dtype=dtype)
        except RuntimeError:
            size = math.prod(shape) * dtype.itemsize / 2**30
            raise UserError(f"{self.label}: {self.name} needs {size:.1f} GB of memory, which there are not") from None


class NamedWeights:
    """The tensors of one dictionary, taken one by one under the names of their axes.

    The first tensor with an axis says how long it is, and the others must agree. What nobody has taken in the end does
    not belong there.
    """

    def __init__(self, label: str, tensors: Mapping[str, Any]) -> None:
        self.label, self.axes = label, dict[str, int]()
        self.left = {name: t for name, t in tensors.items() if isinstance(t, StoredTensor)}

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, *axes: str, transposed: bool = False) -> Tensor:
        """A tensor in float32, with these axes in the file; a ``ValueError`` of one line where it has not."""
        if name not in self.left:
            raise UserError(f"{self.label}: the tensor {name} is missing")
        stored = self.left.pop(name)
        known = tuple(self.axes.get(axis) for axis in axes)
        pairs = zip(known, stored.shape, strict=False)
        fits = len(known) == len(stored.shape) and all(k in (None, n) for k, n in pairs)
        if not fits or 0 in stored.shape:
            expected = ", ".join(axis if k is None else str(k) for axis, k in zip(axes, known, strict=True))
            expected += "," * (len(axes) == 1)
            raise UserError(f"{self.label}: {name} has shape {stored.shape}, ({expected}) expected")
        if not stored.dtype.is_floating_point:
            raise UserError(f"{self.label}: {name} has the type {stored.dtype}, which weights have not")
        self.axes |= dict(zip(axes, stored.shape, strict=True))
        return stored.read(transposed=transposed)

    def number(self, name: str) -> float:
        """The one number in a tensor."""
        if name not in self.left:
            raise UserError(f"{self.label}: the tensor {name} is missing")
        return float(self.left.pop(name).item())

    def counts(self, name: str) -> list[int]:
        """The whole numbers in a tensor of one axis."""
        stored = self.left.pop(name)
        if len(stored.shape) != 1 or stored.dtype.is_floating_point:
            raise UserError(f"{self.label}: {name} is no list of whole numbers")
        return [int(n) for n in stored.read(dtype=None)]

    def drop(self, *names: str) -> None:
        """These have nothing to say about codes."""
        for name in names:
            self.left.pop(name, None)

    def finish(self, what: str) -> None:
        """Refuses what is left over."""
        if self.left:
            raise UserError(f"{self.label}: the tensor {sorted(self.left)[0]} does not belong to {what}")

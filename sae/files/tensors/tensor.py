"""A tensor that is stored in a file, and the tensors of one dictionary."""

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
UNNAMED = "a tensor"
"""Name of tensors that have none yet."""


@runtime_checkable
class ByteStream(Protocol):
    """Interface of a stream of the bytes of a tensor."""

    def readinto(self, into: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in its file; only its name, type and shape are known."""

    label: str
    """What the file is called in errors."""
    name: str
    """Name of the tensor in the file."""
    dtype: torch.dtype
    """Type of the stored numbers."""
    shape: tuple[int, ...]
    """Shape of the tensor."""
    open: Callable[[], ByteStream]
    """Opens a stream that starts at the first number."""
    column_major: bool = False
    """Whether a matrix is stored column by column."""

    def read(self, dtype: torch.dtype | None = torch.float32, transposed: bool = False, finite: bool = True) -> Tensor:
        """Reads the tensor, or its transpose, into new memory, as `dtype` (None: as it is stored).

        The file is read in blocks, so that little more memory than that of the result is used. Raises `UserError`
        where the file ends early, where memory does not suffice, or where `finite` is set and a number is not finite.
        """
        stored_shape = self.shape[::-1] if self.column_major else self.shape
        flip = transposed != self.column_major
        out = self._allocate(stored_shape[::-1] if flip else stored_shape, dtype or self.dtype)
        rows, done = out.T if flip else out.view(stored_shape or (1,)), 0
        for block in self._blocks(stored_shape or (1,)):
            if finite and block.is_floating_point() and not bool(torch.isfinite(block).all()):
                raise UserError(f"{self.label}: {self.name} holds NaN or infinite values")
            rows[done : done + len(block)] = block
            done += len(block)
        return out

    def with_name(self, name: str) -> StoredTensor:
        """The same tensor with a name for errors, if it has none yet."""
        return replace(self, name=name) if self.name == UNNAMED else self

    def item(self) -> float | int | bool:
        """The number in a tensor of one element. Raises `UserError` where it has more."""
        if math.prod(self.shape) != 1:
            raise UserError(f"{self.label}: {self.name} has shape {self.shape}; a single number is expected")
        return self.read(dtype=None).reshape(()).item()

    def _blocks(self, stored_shape: tuple[int, ...]) -> Iterator[Tensor]:
        """Blocks of rows in the order of the file."""
        n_rows, *inner = stored_shape
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

    def _fill(self, f: ByteStream, into: memoryview) -> None:
        while into:
            n = f.readinto(into)
            if not n:
                raise UserError(f"{self.label}: the file ends before the end of {self.name}; copy or download it again")
            into = into[n:]

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        try:
            return torch.empty(shape, dtype=dtype)
        except RuntimeError:
            size = math.prod(shape) * dtype.itemsize / 2**30
            raise UserError(f"{self.label}: not enough memory for {self.name}, which needs {size:.1f} GB") from None


class NamedWeights:
    """The tensors of one dictionary, taken one by one with named axes.

    The first tensor with an axis sets the length of the axis, and later tensors must match it. :meth:`finish` refuses
    tensors that were not taken.
    """

    def __init__(self, label: str, tensors: Mapping[str, Any]) -> None:
        self.label, self.axes = label, dict[str, int]()
        self.remaining = {name: t for name, t in tensors.items() if isinstance(t, StoredTensor)}

    def __contains__(self, name: str) -> bool:
        return name in self.remaining

    def take(self, name: str, *axes: str, transposed: bool = False) -> Tensor:
        """Reads a tensor as float32; `axes` names its axes in the file. Raises `UserError` where it is missing or its
        shape or type does not fit."""
        if name not in self.remaining:
            raise UserError(f"{self.label}: the tensor {name} is missing")
        stored = self.remaining.pop(name)
        known = tuple(self.axes.get(axis) for axis in axes)
        pairs = zip(known, stored.shape, strict=False)
        fits = len(known) == len(stored.shape) and all(k in (None, n) for k, n in pairs)
        if not fits or 0 in stored.shape:
            expected = ", ".join(axis if k is None else str(k) for axis, k in zip(axes, known, strict=True))
            expected += "," * (len(axes) == 1)
            raise UserError(f"{self.label}: {name} has shape {stored.shape}; ({expected}) is expected")
        if not stored.dtype.is_floating_point:
            raise UserError(f"{self.label}: {name} has the type {stored.dtype}; floating-point numbers are expected")
        self.axes |= dict(zip(axes, stored.shape, strict=True))
        return stored.read(transposed=transposed)

    def number(self, name: str) -> float:
        """Reads the number in a tensor of one element."""
        if name not in self.remaining:
            raise UserError(f"{self.label}: the tensor {name} is missing")
        return float(self.remaining.pop(name).item())

    def integers(self, name: str) -> list[int]:
        """Reads the integers in a tensor of one axis."""
        stored = self.remaining.pop(name)
        if len(stored.shape) != 1 or stored.dtype.is_floating_point:
            raise UserError(f"{self.label}: {name} is not a list of integers")
        return [int(n) for n in stored.read(dtype=None)]

    def drop(self, *names: str) -> None:
        """Drops tensors that do not affect codes or reconstructions."""
        for name in names:
            self.remaining.pop(name, None)

    def finish(self, what: str) -> None:
        """Raises `UserError` where tensors remain."""
        if self.remaining:
            raise UserError(f"{self.label}: the tensor {sorted(self.remaining)[0]} does not belong to {what}")

"""Tensors and whole numbers from what a caller has: tensors, NumPy arrays, lists of numbers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.registry import UserError

Numbers = Tensor | NDArray[Any] | Sequence[Any]
"""A tensor, a NumPy array, or nested lists of numbers."""


def as_tensor(name: str, given: Any) -> Tensor:
    """A tensor without its graph, the data of an array, or a new tensor of nested lists.

    Arrays keep their precision where torch has it. Raises `UserError`, with the name of the argument, for anything
    else.
    """
    if isinstance(given, Tensor):
        if given.is_complex():
            raise UserError(f"{name}: {given.dtype}; give real numbers")
        return given.detach()
    rows = list(given) if isinstance(given, list | tuple) else []
    if rows and all(isinstance(row, Tensor) and row.shape == rows[0].shape for row in rows):
        return torch.stack([row.detach() for row in rows])
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, RuntimeError):  # rows of several lengths, or objects that are no numbers
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        found = "None" if given is None else f"{type(given).__name__} of other things than numbers in equal rows"
        raise UserError(f"{name}: {found}; give a tensor, a NumPy array or a list of rows of numbers")
    widest = {"f": np.dtype(np.float64), "i": np.dtype(np.int64), "u": np.dtype(np.int64), "b": array.dtype}
    native = array.dtype.newbyteorder("=")
    known = native if native.kind in "fib" and native.itemsize <= 8 else widest[native.kind]
    # Torch shares the memory of an array that it may write to; only others are copied.
    return torch.from_numpy(np.require(array, known, ["C_CONTIGUOUS", "WRITEABLE"]))


def plain_value(value: Any) -> Any:
    """Python's own numbers and lists for those of NumPy and torch; other values as they are."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value


def integer_of(name: str, value: Any) -> int:
    """A whole number of any type as an int. Raises `UserError` for anything else, also for True and False."""
    plain = plain_value(value)
    try:
        if isinstance(plain, bool):
            raise TypeError
        return operator.index(plain)
    except TypeError:
        raise UserError(f"{name} = {value!r}: not a whole number; give one, such as 0") from None


def integers_of(name: str, values: Any) -> list[int]:
    """One whole number, or several, as a list. Raises `UserError` where there is none or a value is something else."""
    plain = plain_value(values)
    several = list(plain) if isinstance(plain, list | tuple | range | set | frozenset) else [plain]
    if not several:
        raise UserError(f"{name} = {values!r}: there is none; give a whole number, or a list of them")
    return [integer_of(name, value) for value in several]

"""The tensors among the fields of a dataclass: names of their axes, where to move them, which entries to keep."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import Int
from torch import Tensor

from sae.numerics.arrays import plain_value
from sae.registry import UserError


def tensor_axes(cls: Any) -> dict[str, list[str]]:
    """The names of the axes of every tensor field of a dataclass, from its annotation."""
    hints = get_type_hints(cls)
    found = {f.name: _axes(hints[f.name]) for f in fields(cls)}
    return {name: axes for name, axes in found.items() if axes is not None}


def _axes(hint: Any) -> list[str] | None:
    for one in (hint, *get_args(hint)):
        if isinstance(axes := getattr(one, "dim_str", None), str):
            return axes.split()
    return None


def device_and_dtype(*given: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """What a call such as ``to("cuda")``, ``to(torch.bfloat16)``, ``to("cuda", torch.bfloat16)`` or ``to(tensor)``
    asks for. Raises `UserError` for anything else."""
    device, dtype = None, None
    for one in given:
        if isinstance(one, Tensor):
            device, dtype = one.device, one.dtype
        elif isinstance(one, torch.dtype):
            dtype = one
        elif isinstance(one, str | int | torch.device):
            try:
                device = torch.device(one)
            except RuntimeError:
                raise UserError(f"device = {one!r}: no device of torch; give cpu, cuda or cuda:0") from None
        elif one is not None:
            raise UserError(f"to: {type(one).__name__}; give a device such as 'cuda', or a type such as torch.bfloat16")
    if dtype is not None and not dtype.is_floating_point:
        raise UserError(
            f"dtype = {dtype}: not a floating-point type; give torch.float32, torch.bfloat16 or torch.float64"
        )
    return device, dtype


def selected(name: str, given: Any, n: int) -> Int[Tensor, " kept"]:
    """The numbers of the entries that an index of an axis of length `n` selects: a slice, a list of whole numbers (from
    the end where negative), or a mask. Raises `UserError` for a single number, a repeated one, and one that is beyond
    the end."""
    value = plain_value(given)
    if isinstance(value, slice):
        found = torch.arange(n)[_forwards(name, value)]
    else:
        listed: list[Any] = list(value) if isinstance(value, list | tuple | range) else []
        if listed and all(isinstance(one, bool) for one in listed):
            if len(listed) != n:
                raise UserError(f"{name}: a mask of {len(listed)} for {n} latents; give one value for each latent")
            found = torch.tensor(listed).nonzero()[:, 0]
        elif listed and all(isinstance(plain_value(one), int) and not isinstance(one, bool) for one in listed):
            numbers = [int(plain_value(one)) for one in listed]
            if beyond := [one for one in numbers if not -n <= one < n]:
                raise UserError(f"{name}: there is no latent {beyond[0]}; give numbers from 0 to {n - 1}")
            found = torch.tensor(numbers) % n
        else:
            raise UserError(
                f"{name} = {repr(given)[:40]}: give a slice or a list of latents, such as d[:10] or d[[3, 5]]"
            )
    if len(found) == 0:
        raise UserError(f"{name} = {repr(given)[:40]}: no latent is left; give at least one")
    if len(found.unique()) < len(found):
        raise UserError(f"{name} = {repr(given)[:40]}: a latent is named twice; give each once")
    return found


def _forwards(name: str, given: slice) -> slice:
    if given.step is not None and given.step < 1:
        raise UserError(f"{name}: step {given.step}; slices go forwards, give a list of latents instead")
    return given

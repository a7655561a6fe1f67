"""Tensors in a safetensors file that takes the place of an older one whole: weights, and states of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError


def write_state(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors, which must not share memory, from any device."""
    from safetensors.torch import save

    write_atomically(file, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU. Raises `UserError` where it is missing or not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(
            f"{file}: not a whole safetensors file ({error}); delete its folder and run its config again"
        ) from None

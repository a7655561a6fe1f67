"""Activations from a matrix in a safetensors or .npy file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.atomic_write import write_atomically
from sae.numerics.memory import check_memory
from sae.registry import LocalPath, MissingFileError, UserError
from sae.source import Progress, Source, SourceConfig, TensorSource, check_finite, check_label, left_out_facts


class Config(SourceConfig):
    """Settings of a source from a file."""

    kind: Literal["tensor"] = "tensor"
    later: ClassVar[frozenset[str]] = frozenset({"max_norm"})
    file: LocalPath
    """A .npy file with a matrix ``[rows, d_in]``, or a safetensors file with such a matrix, in which vectors called
    ``label.<name>`` are labels: 0/1, or class ids from 0."""
    name: str | None = None
    """The name of the matrix in a safetensors file; default: the only one."""
    target: str | None = None
    """The name of a matrix of the same shape in the same file that dictionaries reconstruct (a transcoder); default:
    the activations themselves."""
    heldout: float = Field(0.2, gt=0, lt=1)
    """The fraction of rows that are held out from training, half for validation and half for testing."""
    max_norm: float | None = Field(None, gt=1)
    """Rows whose norm is above this many times the median norm are left out of training and scoring, such as those of
    attention sinks; see :class:`sae.source.TensorSource`. Default: none."""

    @model_validator(mode="after")
    def _target_is_another(self) -> Config:
        if self.target is not None and self.target == self.name:
            raise UserError(f"target = {self.target!r}: it is the same as name; leave it out for an autoencoder")
        return self

    @property
    def provides(self) -> frozenset[str]:
        available = {"labels": bool(self._label_names()), "targets": self.target is not None}
        return frozenset(name for name, is_available in available.items() if is_available)

    def external_files(self) -> dict[str, Path]:
        return {"file": self.file}

    def _label_names(self) -> list[str]:
        if not self.file.is_file() or self.file.suffix == ".npy":
            return []
        return [name for name in read_matrix_file(self.file) if name.startswith("label.")]

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Checks the file without copying it. Its hash is part of the step's key, so a changed file makes a new step.

        Raises `MissingFileError` if there is no such file, and `UserError` if it has no such matrix.
        """
        acts, targets, _ = self._read()
        directory.mkdir(parents=True, exist_ok=True)
        facts = {"rows": len(acts), "d_in": acts.shape[1]}
        if self.max_norm is not None:
            facts |= left_out_facts(TensorSource(acts, None, self.heldout, self.seed, targets, self.max_norm))
        write_atomically(directory / "source.json", (json.dumps(facts) + "\n").encode())
        progress(len(acts), len(acts), "rows")

    def open(self, directory: Path, device: str) -> Source:
        acts, targets, labels = self._read()
        return self.mark(TensorSource(acts, labels, self.heldout, self.seed, targets, self.max_norm))

    def _read(self) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_in"] | None, dict[str, Tensor]]:
        tensors = read_matrix_file(self.file)
        labels = {n.removeprefix("label."): t for n, t in tensors.items() if n.startswith("label.")}
        matrices = {n: t for n, t in tensors.items() if not n.startswith("label.")}
        for name in (self.name, self.target):
            if name is not None and name not in matrices:
                raise UserError(f"{self.file}: no tensor is called {name!r}; choose from {', '.join(matrices)}")
        targets = None if self.target is None else self._matrix(matrices, self.target)
        candidates = [name for name in matrices if name != self.target] if self.name is None else [self.name]
        if not candidates:
            only = "it has no matrix" if self.target is None else f"it has no matrix but the target {self.target!r}"
            raise UserError(f"{self.file}: {only}; give a file with a matrix of activations")
        if len(candidates) > 1:
            raise UserError(f"{self.file}: it has several matrices; set source.name to one of {', '.join(candidates)}")
        acts = self._matrix(matrices, candidates[0])
        if targets is not None and targets.shape != acts.shape:
            raise UserError(
                f"source.target = {self.target!r}: it has shape {list(targets.shape)} and the activations have shape "
                f"{list(acts.shape)}; choose a matrix of the same shape"
            )
        for name, label in labels.items():
            check_label(f"{self.file}: label.{name}", label, len(acts))
        return acts, targets, labels

    def _matrix(self, matrices: Mapping[str, Tensor], name: str) -> Float[Tensor, "rows d_in"]:
        matrix = matrices[name]
        if matrix.ndim != 2 or not matrix.is_floating_point():
            actual = f"{matrix.dtype} {list(matrix.shape)}"
            raise UserError(f"{self.file}: {name!r} is {actual}; give a floating-point matrix [rows, d_in]")
        if matrix.dtype != torch.float32:
            check_memory(f"source.file = {str(self.file)!r}: {name!r} as float32", 4 * matrix.numel())
        matrix = matrix.float()
        check_finite(f"{self.file}: {name!r}", matrix)
        return matrix


def read_matrix_file(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name, or the array of a .npy file as ``acts``.

    Raises `MissingFileError` if there is no such file, and `UserError` if it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise MissingFileError(f"source.file = {str(file)!r}: does not exist; correct the path")
    try:
        if file.suffix == ".npy":
            # A map compares the shape in the header with the length of the file before any memory is taken.
            check_memory(f"source.file = {str(file)!r}", np.load(file, "r", allow_pickle=False).nbytes)
            return {"acts": torch.from_numpy(np.load(file, allow_pickle=False))}
        return load_file(file)
    except UserError:
        raise
    # NumPy parses the header of a .npy file as Python.
    except (SafetensorError, ValueError, EOFError, TypeError, OverflowError, SyntaxError, TokenError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not a valid .safetensors or .npy file, or cut short: {reason}") from None

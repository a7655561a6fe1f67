"""Activations from a file: a safetensors or .npy matrix that somebody else has made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.registry import MissingFileError, UserError
from sae.source import Progress, Source, SourceConfig, TensorSource


class Config(SourceConfig):
    """Settings. `file` holds a matrix ``[rows, d_in]``; in a safetensors file `name` picks it where there are
    several, and 0/1 vectors called ``label.<name>`` become labels. `target` is the name of another such matrix in the
    same file, of the same shape, that dictionaries are to give back for a transcoder. `heldout` is the share of rows
    kept from training, half to choose on and half to score on."""

    kind: Literal["tensor"] = "tensor"
    file: Path
    name: str | None = None
    target: str | None = None
    heldout: float = Field(0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _target_is_another(self) -> Config:
        if self.target is not None and self.target == self.name:
            raise UserError(f"target = {self.target!r} is the matrix that is read; leave it out for an autoencoder")
        return self

    @property
    def provides(self) -> frozenset[str]:
        here = {"labels": bool(self._label_names()), "targets": self.target is not None}
        return frozenset(name for name, is_here in here.items() if is_here)

    def external_files(self) -> dict[str, Path]:
        return {"file": self.file}

    def _label_names(self) -> list[str]:
        if not self.file.is_file() or self.file.suffix == ".npy":
            return []
        return [name for name in read_matrix_file(self.file) if name.startswith("label.")]

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Checks the file; nothing is copied. The step's key holds the file's hash, so a changed file is a new step."""
        acts, _, _ = self._read()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "source.json").write_text(json.dumps({"rows": len(acts), "d_in": acts.shape[1]}) + "\n")
        progress(len(acts), len(acts), "rows")

    def open(self, directory: Path, device: str) -> Source:
        acts, targets, labels = self._read()
        return TensorSource(acts, labels, self.heldout, self.seed, targets)

    def _read(self) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_in"] | None, dict[str, Tensor]]:
        tensors = read_matrix_file(self.file)
        labels = {n.removeprefix("label."): t for n, t in tensors.items() if n.startswith("label.")}
        matrices = {n: t for n, t in tensors.items() if not n.startswith("label.")}
        for name in (self.name, self.target):
            if name is not None and name not in matrices:
                raise UserError(f"{self.file}: there is no tensor {name!r}; it has {', '.join(matrices)}")
        targets = None if self.target is None else self._matrix(matrices, self.target)
        candidates = [name for name in matrices if name != self.target] if self.name is None else [self.name]
        if len(candidates) != 1:
            these = ", ".join(candidates) or f"it has no matrix beside {self.target!r}"
            raise UserError(f"{self.file}: say which by source.name: {these}")
        acts = self._matrix(matrices, candidates[0])
        if targets is not None and targets.shape != acts.shape:
            raise UserError(
                f"{self.file}: source.target: {self.target!r} has shape {list(targets.shape)} where the activations "
                f"have {list(acts.shape)}; a dictionary reads and writes one width"
            )
        wrong = [n for n, t in labels.items() if len(t) != len(acts)]
        if wrong:
            raise UserError(f"{self.file}: label.{wrong[0]} has another number of rows than the activations")
        return acts, targets, labels

    def _matrix(self, matrices: Mapping[str, Tensor], name: str) -> Float[Tensor, "rows d_in"]:
        matrix = matrices[name]
        if matrix.ndim != 2 or not matrix.is_floating_point():
            found = f"{matrix.dtype} {tuple(matrix.shape)}"
            raise UserError(f"{self.file}: {name!r}: a float matrix [rows, d_in] expected, not {found}")
        if not bool(torch.isfinite(matrix).all()):
            raise UserError(f"{self.file}: the activations {name!r} hold NaN or infinite values")
        return matrix.float()


def read_matrix_file(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name, or the one array of a .npy file as ``acts``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise MissingFileError(f"source.file: {file} does not exist")
    try:
        if file.suffix == ".npy":
            return {"acts": torch.from_numpy(np.load(file, allow_pickle=False))}
        return load_file(file)
    except (SafetensorError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"{file}: not a whole .safetensors or .npy file: {error}") from None

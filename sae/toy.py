"""Toy sources: activations computed from a few tensors that the settings and a seed determine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.source import Progress, Source, SourceConfig


class ToyConfig(SourceConfig):
    """Settings of a source that is drawn without end from known features."""

    FILE: ClassVar[str] = "source.safetensors"

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"truth", "codes"})

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the source is made of, as a pure function of the settings; `directions` is among them."""

    @abstractmethod
    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        """The source made of those tensors."""

    def build(self) -> Source:
        """The source, in memory."""
        return self.assemble(self.tensors())

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors()
        save_file(tensors, directory / self.FILE)
        progress(len(tensors["directions"]), len(tensors["directions"]), "features")

    def open(self, directory: Path, device: str) -> Source:
        from safetensors.torch import load_file

        # Cloned, because a tensor's place in a file changes its alignment and so the last bits of a product.
        return self.assemble({name: t.clone() for name, t in load_file(directory / self.FILE).items()})


def random_directions(n_features: int, d_in: int, draw: torch.Generator) -> Float[Tensor, "n_features d_in"]:
    """Unit vectors drawn uniformly from the sphere."""
    rows = torch.randn(n_features, d_in, generator=draw)
    return rows / rows.norm(dim=-1, keepdim=True)


def with_mean(shape: Float[Tensor, " n_features"], mean: float) -> Float[Tensor, " n_features"]:
    """Probabilities proportional to `shape` with the given mean; a ``ValueError`` where one would exceed 1."""
    p = shape * (mean / shape.mean())
    if float(p.max()) > 1:
        raise ValueError(
            f"firing probabilities: a mean of {mean:g} would need a feature to fire with probability "
            f"{float(p.max()):.3g}; lower the mean or flatten the decay"
        )
    return p

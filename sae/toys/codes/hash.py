"""A lookup table: every combination of attribute values has its own random vector.

    x = a h(v_1, ..., v_A),    h a table of n_values^n_attributes unit vectors, uniform on the sphere

Combinations that share a value have unrelated vectors, so no direction represents "attribute 1 has value 3" and the
representation does not decompose (problem 4.19 of N. Nanda's concrete open problems). A dictionary can learn the table
with one latent for each combination, ``n_values^(n_attributes - 1)`` of them for each value of an attribute; it then
reconstructs the activations but has no latent for any value.

Labels: `attribute_0`, `attribute_1`, ..., the value of each attribute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.source import Batch
from sae.toys.base import random_directions
from sae.toys.features.values import AnyValues, ConstantValue
from sae.toys.nonlinear_code import Code

LARGEST_TABLE = 2**26
"""Largest number of entries of the table: a quarter of a gigabyte."""


class Config(Code):
    """Settings of the lookup-table code."""

    kind: Literal["hash"] = "hash"
    attributes: int = Field(2, ge=1)
    """Number of attributes."""
    values_each: int = Field(8, ge=2)
    """Number of values of each attribute."""
    width: int = Field(16, gt=0)
    """Dimensions of the vectors."""
    values: AnyValues = ConstantValue()
    """Distribution of the length a."""

    nonlinear: ClassVar[str] = (
        "every combination of values has its own random vector, so no single value has a direction"
    )

    @model_validator(mode="after")
    def _fits(self) -> Config:
        # Logarithms, since the number itself may have billions of digits.
        entries = math.log2(self.width) + self.attributes * math.log2(self.values_each)
        if entries > math.log2(LARGEST_TABLE):
            raise UserError(
                f"attributes = {self.attributes}: a table of {self.values_each}^{self.attributes} combinations in "
                f"{self.width} dimensions has more than {LARGEST_TABLE} entries; lower attributes or values_each"
            )
        return self

    @property
    def dimensions(self) -> int:
        return self.width

    def tensors(self, seed: int) -> dict[str, Tensor]:
        n = self.values_each**self.attributes
        table = random_directions(n, self.width, generator("hash", seed))
        of_values = self.values.tensors(n, seed)
        return {"table": table, **{f"values.{name}": t for name, t in of_values.items()}}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        value = torch.randint(self.values_each, (size, self.attributes), generator=draw)
        stride = self.values_each ** torch.arange(self.attributes)
        row = (value * stride).sum(1)
        of_values = {name.removeprefix("values."): t for name, t in tensors.items() if name.startswith("values.")}
        length = self.values.draw(of_values, row, draw)
        labels = {f"attribute_{i}": value[:, i] for i in range(self.attributes)}
        return Batch(tensors["table"][row] * length[:, None], labels=labels)

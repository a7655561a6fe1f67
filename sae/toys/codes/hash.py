"""A lookup table: every combination of values has a random vector of its own, in which no value has a part.

    x = a h(v_1, ..., v_A),    h a table of n_values^n_attributes unit vectors, uniform on the sphere

Nothing that two combinations share is written twice, so no direction says "attribute 1 has value 3": the
representation does not decompose (problem 4.19 of N. Nanda's concrete open problems). A dictionary can learn the table,
a latent for each combination, ``n_values^(n_attributes - 1)`` for each value of an attribute; that reconstructs, and
finds none of the values.

Labels: `attribute_0`, `attribute_1`, ..., each the value of an attribute.
"""

from __future__ import annotations

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
"""The most numbers in a table: a quarter of a gigabyte."""


class Config(Code):
    """Settings. `attributes` many of `values_each` values each, written into `width` dimensions; `values` is the law of
    the length a."""

    kind: Literal["hash"] = "hash"
    attributes: int = Field(2, ge=1)
    values_each: int = Field(8, ge=2)
    width: int = Field(16, gt=0)
    values: AnyValues = ConstantValue()

    nonlinear: ClassVar[str] = (
        "every combination of values has a random vector of its own, so that no value has a direction"
    )

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width * self.values_each**self.attributes > LARGEST_TABLE:
            raise UserError(
                f"a table of {self.values_each}^{self.attributes} combinations in {self.width} dimensions is above "
                f"{LARGEST_TABLE} numbers; lower attributes or values_each"
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

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        value = torch.randint(self.values_each, (size, self.attributes), generator=draw)
        place = self.values_each ** torch.arange(self.attributes)
        row = (value * place).sum(1)
        of_values = {name.removeprefix("values."): t for name, t in given.items() if name.startswith("values.")}
        length = self.values.draw(of_values, row, draw)
        labels = {f"attribute_{i}": value[:, i] for i in range(self.attributes)}
        return Batch(given["table"][row] * length[:, None], labels=labels)

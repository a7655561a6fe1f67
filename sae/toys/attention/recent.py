"""The most recent token of a class: ``A ... B -> A``.

Tokens are uniform over `n_a` tokens of class A, `n_b` of class B and `n_other` others, after BOS. At every B that comes
after an A, the answer is the last A before it. A head must attend by class and by position together, and copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator
from sae.source import Split
from sae.toys.attention.task import LONGEST_ROW, Labels, TokenBatch, TokenTask


class Recent(TokenTask):
    """Settings of the most-recent-token task."""

    kind: Literal["recent"] = "recent"
    n_a: int = Field(8, gt=1)
    """Number of tokens of class A."""
    n_b: int = Field(4, gt=0)
    """Number of tokens of class B."""
    n_other: int = Field(8, ge=0)
    """Number of other tokens, without BOS."""
    length: int = Field(17, ge=5, le=LONGEST_ROW)
    """Tokens per row, with BOS."""

    @property
    def n_tokens(self) -> int:
        return self.length

    @property
    def bos(self) -> int:
        return self.n_a + self.n_b + self.n_other

    @property
    def d_vocab(self) -> int:
        return self.bos + 1

    @property
    def d_vocab_out(self) -> int:
        return self.n_a

    def limit(self, split: Split) -> None:
        return None

    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        tokens = torch.randint(self.bos, (size, self.length), generator=generator("recent", seed, split, step))
        tokens[:, 0] = self.bos
        return tokens

    def answers(self, tokens: TokenBatch) -> TokenBatch:
        return torch.where(self._is_b(tokens), self._recent(tokens), NOTHING)

    def labels(self, tokens: TokenBatch) -> Labels:
        """``recent``: the last A up to the position; ``distance`` to it; ``is_b``. Undefined before the first A."""
        recent = self._recent(tokens)
        place = torch.arange(self.length).expand_as(tokens)
        distance = place - torch.where(tokens < self.n_a, place, 0).cummax(1).values
        labels = {"recent": recent, "distance": distance.to(tokens), "is_b": self._is_b(tokens).to(tokens)}
        return {name: torch.where(recent == NOTHING, NOTHING, label) for name, label in labels.items()}

    def _is_b(self, tokens: Tensor) -> Tensor:
        return (tokens >= self.n_a) & (tokens < self.n_a + self.n_b)

    def _recent(self, tokens: TokenBatch) -> TokenBatch:
        """The last A up to each position, ``NOTHING`` before the first."""
        is_a = tokens < self.n_a
        where = torch.where(is_a, torch.arange(self.length), 0).cummax(1).values
        return torch.where(is_a.cumsum(1) > 0, tokens.gather(1, where), NOTHING)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        sizes = {"A": self.n_a, "B": self.n_b, "other": self.n_other, "BOS": 1}
        first, classes = 0, dict[str, tuple[int, ...]]()
        for name, n in sizes.items():
            classes[name] = tuple(range(first, first + n))
            first += n
        return classes

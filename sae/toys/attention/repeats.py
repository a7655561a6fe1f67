"""Repeated random sequences, the induction task: ``... A B ... A -> B``.

After BOS a random sequence is repeated until the row is full. Its length differs between rows, so positions do not
determine where to look: a model must find the earlier occurrence by content. This takes a head that attends to the
previous token and a head in a later layer that matches (Elhage et al. 2021; Olsson et al. 2022). The loss is defined
from the first token of the second repetition on, where the tokens determine the next one.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.source import Split
from sae.toys.attention.task import LONGEST_ROW, Labels, TokenBatch, TokenTask, next_tokens


class Repeats(TokenTask):
    """Settings of the induction task."""

    kind: Literal["repeats"] = "repeats"
    vocabulary: int = Field(32, gt=1)
    """Number of tokens, without BOS."""
    shortest: int = Field(6, gt=1)
    """Smallest length of the repeated sequence."""
    longest: int = Field(12, gt=1)
    """Largest length of the repeated sequence."""
    length: int = Field(25, ge=5, le=LONGEST_ROW)
    """Tokens per row, with BOS."""

    @model_validator(mode="after")
    def _possible(self) -> Repeats:
        if not self.shortest <= self.longest <= self.length - 3:
            raise UserError(
                f"shortest = {self.shortest}, longest = {self.longest}, length = {self.length}: a row holds BOS, the "
                "longest sequence and two more tokens; set shortest <= longest <= length - 3"
            )
        return self

    @property
    def n_tokens(self) -> int:
        return self.length

    @property
    def bos(self) -> int:
        return self.vocabulary

    @property
    def d_vocab(self) -> int:
        return self.vocabulary + 1

    @property
    def d_vocab_out(self) -> int:
        return self.vocabulary

    def limit(self, split: Split) -> None:
        return None

    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        draw = generator("repeats", seed, split, step)
        sequence = torch.randint(self.vocabulary, (size, self.longest), generator=draw)
        period = torch.randint(self.shortest, self.longest + 1, (size, 1), generator=draw)
        repeated = sequence.gather(1, torch.arange(self.length - 1) % period)
        return torch.nn.functional.pad(repeated, (1, 0), value=self.bos)

    def period(self, tokens: TokenBatch) -> Tensor:
        """The length of each row's sequence ``[rows]``: the smallest period of the row."""
        shortest = torch.full(tokens.shape[:1], self.longest)
        for period in range(self.longest, self.shortest - 1, -1):
            repeats = (tokens[:, 1 + period :] == tokens[:, 1:-period]).all(1)
            shortest = torch.where(repeats, period, shortest)
        return shortest

    def _second(self, tokens: TokenBatch) -> Tensor:
        """Whether each position is in the second repetition or later."""
        return torch.arange(self.length) > self.period(tokens)[:, None]

    def answers(self, tokens: TokenBatch) -> TokenBatch:
        following = next_tokens(tokens)
        return torch.where(self._second(tokens), following, NOTHING)

    def labels(self, tokens: TokenBatch) -> Labels:
        """``second``: whether the position is in the second repetition or later; ``previous`` token; ``target``: the
        next token there, which is the token after the earlier occurrence, and `vocabulary` in the first repetition.
        Undefined at BOS and at the last position."""
        second = self._second(tokens)
        previous = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=NOTHING)
        following = next_tokens(tokens)
        target = torch.where(second, following, self.vocabulary)
        inside = (torch.arange(self.length) > 0) & (torch.arange(self.length) < self.length - 1)
        labels = {"second": second.to(tokens), "previous": previous, "target": target}
        return {name: torch.where(inside, label, NOTHING) for name, label in labels.items()}

"""Rows of tokens for a model, with the positions and predictions that count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

NOTHING = -1
"""The value of an answer or a label where none is defined."""


@dataclass(frozen=True, eq=False)
class TokenRows:
    """A batch of token sequences, with masks of the positions that count."""

    tokens: Int[Tensor, "rows n_tokens"]
    """Token ids; any valid id at padding."""
    attended: Bool[Tensor, "rows n_tokens"]
    """The positions that hold a token; the others are padding."""
    kept: Bool[Tensor, "rows n_tokens"]
    """The positions whose activations count, for example without special tokens and padding."""
    answers: Int[Tensor, "rows n_tokens"] | None = None
    """The token to predict at each position, :data:`NOTHING` where no loss is defined; None: the next token."""

    def __getitem__(self, rows: slice) -> TokenRows:
        answers = None if self.answers is None else self.answers[rows]
        return TokenRows(self.tokens[rows], self.attended[rows], self.kept[rows], answers)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counted(self) -> Bool[Tensor, "rows n_targets"]:
        """The predictions that count in the loss.

        With `answers` they are the positions that have one (``n_targets = n_tokens``). Without, they are the next-token
        predictions for which both the position and the next one are kept (``n_targets = n_tokens - 1``).
        """
        return self.kept[:, :-1] & self.kept[:, 1:] if self.answers is None else self.answers != NOTHING

    @property
    def targets(self) -> Int[Tensor, "rows n_targets"]:
        """The token ids to predict, in the shape of :attr:`counted`."""
        return self.tokens[:, 1:] if self.answers is None else self.answers


def first_attended(attended: Bool[Tensor, "rows n_tokens"]) -> Bool[Tensor, "rows n_tokens"]:
    """The position at which the text of each row begins: the first one, but for rows padded on the left."""
    return attended & (attended.long().cumsum(1) == 1)


Select = Callable[[Int[Tensor, "rows n_tokens"]], TokenRows]
"""Makes model input from token ids: marks the positions that count, and the tokens to predict there."""

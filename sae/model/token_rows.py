"""The noun `TokenRows`: rows of tokens for a model, with what counts in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

NOTHING = -1
"""What stands among answers and labels where there is none."""


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of tokens ``[rows, n_tokens]``: which are real (`attended`, the rest is padding), and which count
    (`kept`, neither special tokens nor padding).

    `answers` are what is to be predicted at each position, :data:`NOTHING` where no loss is defined; without them it is
    the next token.
    """

    tokens: Int[Tensor, "rows n_tokens"]
    attended: Bool[Tensor, "rows n_tokens"]
    kept: Bool[Tensor, "rows n_tokens"]
    answers: Int[Tensor, "rows n_tokens"] | None = None

    def __getitem__(self, rows: slice) -> TokenRows:
        answers = None if self.answers is None else self.answers[rows]
        return TokenRows(self.tokens[rows], self.attended[rows], self.kept[rows], answers)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counted(self) -> Bool[Tensor, "rows n_targets"]:
        """The predictions that count: those with an answer; or, one fewer a row than tokens, those of a next token
        where both the position and its target are kept."""
        return self.kept[:, :-1] & self.kept[:, 1:] if self.answers is None else self.answers != NOTHING

    @property
    def targets(self) -> Int[Tensor, "rows n_targets"]:
        """What is to be predicted, in the shape of :attr:`counted`."""
        return self.tokens[:, 1:] if self.answers is None else self.answers


Select = Callable[[Int[Tensor, "rows n_tokens"]], TokenRows]
"""What makes rows for a model of rows of token ids: which of them count, and what is to be predicted there."""

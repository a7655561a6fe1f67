"""Interface of token tasks: rows of tokens to train a small transformer on, with answers and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from sae.model.token_rows import NOTHING
from sae.registry import Settings
from sae.source import Split

LONGEST_ROW = 10_000
"""The largest length of a row; attention needs memory by its square."""
TokenBatch = Int[Tensor, "rows n_tokens"]
Labels = Mapping[str, TokenBatch]


class TokenTask(Settings, ABC):
    """Settings of a task on rows of tokens.

    Only the tokens are random: the answer to predict at each position and the labels are pure functions of the tokens.
    """

    @property
    def name(self) -> str:
        """The kind of the task."""
        return str(self.model_dump()["kind"])

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """The length of every row."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """Number of different tokens."""

    @property
    @abstractmethod
    def d_vocab_out(self) -> int:
        """Number of different answers, counted from 0."""

    @property
    def bos(self) -> int | None:
        """The constant first token of every row; None if there is none."""
        return None

    @abstractmethod
    def limit(self, split: Split) -> int | None:
        """Number of distinct rows in a split; None if rows are drawn without limit."""

    @abstractmethod
    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        """The rows of one step, a pure function of the arguments.

        A task with a limit goes through its ``train`` rows in a new order every epoch and through the other splits in
        order; no row is in two splits. A task without a limit draws new rows for every step.
        """

    @abstractmethod
    def answers(self, tokens: TokenBatch) -> TokenBatch:
        """The answer to predict at each position, :data:`~sae.model.token_rows.NOTHING` where no loss is defined."""

    @abstractmethod
    def labels(self, tokens: TokenBatch) -> Labels:
        """Labels of each position by name: 0/1 or class ids, ``NOTHING`` where undefined."""

    def floor(self, tokens: TokenBatch) -> Float[Tensor, "rows n_tokens"]:
        """The lowest possible expected loss in nats at each position with an answer: 0 where tokens determine it."""
        return (self.answers(tokens) * 0).float()

    def places(self) -> Mapping[str, tuple[int, ...]]:
        """Groups of positions by name, for figures."""
        return {"": tuple(range(self.n_tokens))}

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Groups of tokens by name, for figures; tokens in no group are not shown."""
        return {"tokens": tuple(range(self.d_vocab))}


def next_tokens(tokens: TokenBatch) -> TokenBatch:
    """The token after each position, ``NOTHING`` at the last."""
    return pad(tokens[:, 1:], (0, 1), value=NOTHING)


def defined(labels: Labels) -> Tensor:
    """Whether all labels are defined, for each position ``[rows, n_tokens]``."""
    [first, *others] = labels.values()
    at = first != NOTHING
    for label in others:
        at = at & (label != NOTHING)
    return at

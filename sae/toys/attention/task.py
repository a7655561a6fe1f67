"""The noun `TokenTask`: rows of tokens to train a small transformer on, and all that is known of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.registry import Settings
from sae.source import Split

TokenBatch = Int[Tensor, "rows n_tokens"]
Labels = Mapping[str, TokenBatch]


class TokenTask(Settings, ABC):
    """Settings of a task. Rows of tokens are drawn; what is to be predicted at each position, and what is true
    there, are pure functions of the tokens, so that tokens alone need be kept."""

    @property
    def name(self) -> str:
        """The kind."""
        return str(self.model_dump()["kind"])

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """The length of every row."""

    @property
    @abstractmethod
    def d_vocab(self) -> int:
        """How many tokens there are."""

    @property
    @abstractmethod
    def d_vocab_out(self) -> int:
        """How many answers there are, from 0."""

    @property
    def bos(self) -> int | None:
        """The token that begins every row and says nothing, where there is one."""
        return None

    @abstractmethod
    def limit(self, split: Split) -> int | None:
        """How many distinct rows a split has; None where they are drawn without end."""

    @abstractmethod
    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        """The rows of one step, a function of these arguments. A task with a limit walks its ``train`` rows in a new
        order every epoch and the other splits in order; no row is in two splits. One without draws afresh."""

    @abstractmethod
    def answers(self, tokens: TokenBatch) -> TokenBatch:
        """What is to be predicted at each position, :data:`~sae.model.hooked.NOTHING` where no loss is defined."""

    @abstractmethod
    def labels(self, tokens: TokenBatch) -> Labels:
        """What is true at each position, by name: 0/1 or class ids, ``NOTHING`` where it makes no sense."""

    def floor(self, tokens: TokenBatch) -> Float[Tensor, "rows n_tokens"]:
        """The loss in nats of the best predictor at each position with an answer: 0 where tokens determine it."""
        return (self.answers(tokens) * 0).float()

    def places(self) -> Mapping[str, tuple[int, ...]]:
        """Positions that belong together, by name, for figures."""
        return {"": tuple(range(self.n_tokens))}

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Tokens that belong together, by name, for figures; what is left out is not shown."""
        return {"tokens": tuple(range(self.d_vocab))}


def defined(labels: Labels) -> Tensor:
    """The positions ``[rows, n_tokens]`` at which all labels make sense."""
    [first, *others] = labels.values()
    at = first != NOTHING
    for label in others:
        at = at & (label != NOTHING)
    return at

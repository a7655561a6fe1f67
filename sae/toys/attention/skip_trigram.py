"""Skip trigrams that share their first token: ``A ... B -> C``.

A is token 0, B one of k tokens, C = B + k, and BOS is the first token of a row. Tokens are uniform, except that after
the first A every B is followed by its C. The loss is defined at B: the next token is C if A occurred before and uniform
otherwise, so the best predictor loses ln(2k + 1) before A and 0 after it.

What a head copies from A does not depend on B, only how strongly it attends to A does. One head of dimension 1 can
therefore move the logits along one line only; two heads reach three corners of a square, and with them three trigrams.
It is the toy of 'Attention head superposition' (Circuits Updates, May 2023; the July update found the two-head solution
and withdrew the name). A published generator forces C only after the next B and takes the loss at all positions, most
of which are noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator
from sae.source import Split
from sae.toys.attention.task import LONGEST_ROW, Labels, TokenBatch, TokenTask, next_tokens


class SkipTrigram(TokenTask):
    """Settings of the skip-trigram task."""

    kind: Literal["skip_trigram"] = "skip_trigram"
    k: int = Field(3, gt=0)
    """Number of trigrams."""
    length: int = Field(11, ge=5, le=LONGEST_ROW)
    """Tokens per row, with BOS."""

    @property
    def n_tokens(self) -> int:
        return self.length

    @property
    def bos(self) -> int:
        return 2 * self.k + 1

    @property
    def d_vocab(self) -> int:
        return 2 * self.k + 2

    @property
    def d_vocab_out(self) -> int:
        """All tokens but BOS."""
        return 2 * self.k + 1

    def limit(self, split: Split) -> None:
        return None

    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        draw = generator("skip_trigram", seed, split, step)
        tokens = torch.randint(2 * self.k + 1, (size, self.length), generator=draw)
        tokens[:, 0] = self.bos
        for i in range(1, self.length):
            before = tokens[:, i - 1]
            forced = self._is_b(before) & (tokens[:, :i] == 0).any(1)
            tokens[:, i] = torch.where(forced, before + self.k, tokens[:, i])
        return tokens

    def _is_b(self, tokens: Tensor) -> Tensor:
        return (tokens >= 1) & (tokens <= self.k)

    def answers(self, tokens: TokenBatch) -> TokenBatch:
        following = next_tokens(tokens)
        return torch.where(self._is_b(tokens), following, NOTHING)

    def labels(self, tokens: TokenBatch) -> Labels:
        """``a_seen``: whether A occurred; ``b``: the current B, 0 for none; ``trigram``: the same after A, 0 before it.
        Undefined at BOS only."""
        seen, b = self._seen(tokens), torch.where(self._is_b(tokens), tokens, 0)
        labels = {"a_seen": seen.to(tokens), "b": b, "trigram": b * seen}
        for label in labels.values():
            label[:, 0] = NOTHING
        return labels

    def _seen(self, tokens: TokenBatch) -> Tensor:
        return (tokens == 0).cumsum(1) > 0

    def floor(self, tokens: TokenBatch) -> Tensor:
        return torch.where(self._seen(tokens), 0.0, math.log(self.d_vocab_out))

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        k = self.k
        return {"A": (0,), "B": tuple(range(1, k + 1)), "C": tuple(range(k + 1, 2 * k + 1)), "BOS": (self.bos,)}

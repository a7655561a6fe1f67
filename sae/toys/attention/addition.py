"""Addition of two numbers, with all digits of the sum predicted at once.

    a_0 .. a_{n-1}  b_0 .. b_{n-1}  = .. =        n + 1 signs, at which the digits of a + b are predicted

The lowest digit comes first. The answers are predicted in parallel at the signs, so the model never sees its own
answers. With c_0 = 0, s_i = a_i + b_i and c_{i+1} = [s_i + c_i > 9], the answer at sign i is (s_i + c_i) mod 10; at the
last sign, where a_n = b_n = 0, it is c_n. This is the task of the hackathon report 'Experiments in Superposition'
(2023). The report's ablations use position 2n - 1, which is never trained, and feed answers in place of the signs; here
both are as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.numerics.seeds import Permutation, derive, epoch_rows
from sae.registry import UserError
from sae.source import Split
from sae.toys.attention.task import Labels, TokenBatch, TokenTask

SIGN = 10


class Addition(TokenTask):
    """Settings of the addition task; pairs of numbers are drawn without repetition."""

    kind: Literal["addition"] = "addition"
    n_digits: int = Field(6, ge=2, le=8)
    """Digits of each of the two numbers."""
    n_train: int = Field(25_000, gt=0)
    """Number of training pairs."""
    n_test: int = Field(2_000, gt=1)
    """Number of held-out pairs, half for validation and half for test."""

    @model_validator(mode="after")
    def _enough_pairs(self) -> Addition:
        if self.n_train + self.n_test > 100**self.n_digits:
            raise UserError(
                f"n_train + n_test = {self.n_train + self.n_test}: there are only {100**self.n_digits} pairs of "
                f"numbers with {self.n_digits} digits; lower n_train or n_test, or raise n_digits"
            )
        return self

    @property
    def n_tokens(self) -> int:
        return 3 * self.n_digits + 1

    @property
    def d_vocab(self) -> int:
        """Digits, the sign, and ``^``, which the original defines and never uses."""
        return 12

    @property
    def d_vocab_out(self) -> int:
        return 10

    def limit(self, split: Split) -> int:
        half = self.n_test // 2
        return {"train": self.n_train, "choose": half, "test": self.n_test - half}[split]

    def batch(self, seed: int, split: Split, step: int, size: int) -> TokenBatch:
        n = self.limit(split)
        if split == "train":
            index = epoch_rows(step, size, n, derive("addition", seed))
        else:
            index = (step * size + np.arange(size)) % n + self.n_train
            index += self.limit("choose") if split == "test" else 0
        return self.row(self.pair(index, seed))

    def pair(self, index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """The pairs with these indices, as ``a * 10^n + b``; different indices give different pairs."""
        return Permutation(100**self.n_digits, derive("pairs", seed))(index)

    def row(self, pair: NDArray[np.int64]) -> TokenBatch:
        """The rows of tokens of the pairs ``a * 10^n + b``."""
        powers = 10 ** np.arange(self.n_digits)
        a, b = (number[:, None] // powers % 10 for number in np.divmod(pair, 10**self.n_digits))
        signs = np.full((len(pair), self.n_digits + 1), SIGN)
        return torch.from_numpy(np.concatenate([a, b, signs], axis=1))

    def answers(self, tokens: TokenBatch) -> TokenBatch:
        answers = torch.full_like(tokens, NOTHING)
        answers[:, 2 * self.n_digits :] = self._places(tokens)["answer"]
        return answers

    def labels(self, tokens: TokenBatch) -> Labels:
        """``a b sum carry carry_out answer`` of the decimal place of each position from b on, where all are determined.

        At the last sign a and b are 0. ``carry_at = 2 i + c_i`` and ``answer_at = 10 i + answer`` include the place i,
        because a latent may represent a digit at one place only.
        """
        n, labels = self.n_digits, dict[str, Tensor]()
        for name, value in self._places(tokens).items():
            labels[name] = torch.full_like(tokens, NOTHING)
            labels[name][:, n : 2 * n], labels[name][:, 2 * n :] = value[:, :n], value
        return labels

    def _places(self, tokens: TokenBatch) -> dict[str, Tensor]:
        """The labels of every decimal place ``[rows, n_digits + 1]``."""
        n = self.n_digits
        a, b = (torch.nn.functional.pad(tokens[:, first : first + n], (0, 1)) for first in (0, n))
        carry = torch.zeros_like(a)
        for i in range(n):
            carry[:, i + 1] = (a[:, i] + b[:, i] + carry[:, i]) > 9
        total = a + b + carry
        place = torch.arange(n + 1)
        return {
            "a": a,
            "b": b,
            "sum": a + b,
            "carry": carry,
            "carry_out": (total > 9).to(a),
            "answer": total % 10,
            "carry_at": 2 * place + carry,
            "answer_at": 10 * place + total % 10,
        }

    def places(self) -> Mapping[str, tuple[int, ...]]:
        n = self.n_digits
        edges = {"a": (0, n), "b": (n, 2 * n), "=": (2 * n, self.n_tokens)}
        return {name: tuple(range(*edge)) for name, edge in edges.items()}

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        return {"digits": tuple(range(10))}

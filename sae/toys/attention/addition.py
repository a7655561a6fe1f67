"""Addition of two numbers, all digits of the sum predicted at once.

    a_0 .. a_{n-1}  b_0 .. b_{n-1}  = .. =        n + 1 signs, at which the digits of a + b are predicted

The lowest digit comes first. Answers stand at the signs, in parallel: the model never sees its own answers. With
c_0 = 0, s_i = a_i + b_i and c_{i+1} = [s_i + c_i > 9], the answer is (s_i + c_i) mod 10; it is c_n at the last sign,
where a and b go on with zeros. The task of the hackathon report 'Experiments in Superposition' (2023), whose own
ablations read position 2n - 1, which is never trained, and feed answers in the place of signs; here both are as in
training.
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
    """Settings. Pairs of numbers are drawn without repetition: `n_train` to train on, `n_test` held out."""

    kind: Literal["addition"] = "addition"
    n_digits: int = Field(6, ge=2, le=8)
    n_train: int = Field(25_000, gt=0)
    n_test: int = Field(2_000, gt=1)

    @model_validator(mode="after")
    def _enough_pairs(self) -> Addition:
        if self.n_train + self.n_test > 100**self.n_digits:
            raise UserError(
                f"n_train + n_test = {self.n_train + self.n_test} is more than the {100**self.n_digits} pairs of "
                f"numbers with {self.n_digits} digits; lower them"
            )
        return self

    @property
    def n_tokens(self) -> int:
        return 3 * self.n_digits + 1

    @property
    def d_vocab(self) -> int:
        """Digits, the sign, and ``^``, which the original has and never uses."""
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
        """Different pairs for different indices, as ``a * 10^n + b``."""
        return Permutation(100**self.n_digits, derive("pairs", seed))(index)

    def row(self, pair: NDArray[np.int64]) -> TokenBatch:
        """The rows of tokens of pairs ``a * 10^n + b``."""
        powers = 10 ** np.arange(self.n_digits)
        a, b = (number[:, None] // powers % 10 for number in np.divmod(pair, 10**self.n_digits))
        signs = np.full((len(pair), self.n_digits + 1), SIGN)
        return torch.from_numpy(np.concatenate([a, b, signs], axis=1))

    def answers(self, tokens: TokenBatch) -> TokenBatch:
        found = torch.full_like(tokens, NOTHING)
        found[:, 2 * self.n_digits :] = self._places(tokens)["answer"]
        return found

    def labels(self, tokens: TokenBatch) -> Labels:
        """``a b sum carry carry_out answer`` of the place that a position belongs to, from b on, where all of them can
        be known; 0 and 0 are a and b of the last sign. ``carry_at`` and ``answer_at`` tell places apart: 2 i + c_i, and
        10 i + the answer. A latent may well stand for a digit at one place, which is a poor sign of it at all places.
        """
        n, found = self.n_digits, dict[str, Tensor]()
        for name, value in self._places(tokens).items():
            found[name] = torch.full_like(tokens, NOTHING)
            found[name][:, n : 2 * n], found[name][:, 2 * n :] = value[:, :n], value
        return found

    def _places(self, tokens: TokenBatch) -> dict[str, Tensor]:
        """The labels of every place ``[rows, n_digits + 1]``."""
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

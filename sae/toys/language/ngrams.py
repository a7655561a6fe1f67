"""Interpolated modified Kneser-Ney models of n-grams, to compare language models with.

    p(w | h) = (c(h w) - D(c(h w)))^+ / c(h .)  +  gamma(h) p(w | h'),     h' is h without its first token
    gamma(h) = (D_1 N_1(h .) + D_2 N_2(h .) + D_3 N_3+(h .)) / c(h .)
    Y = n_1 / (n_1 + 2 n_2),   D_i = i - (i + 1) Y n_(i+1) / n_i

n_i is the number of n-grams that occur i times, N_i(h .) the number of those that follow h. The longest n-grams are
counted as they are; a shorter one counts the different tokens that occur before it. The shortest are mixed with the
uniform distribution. Chen and Goodman 1999, 'An empirical study of smoothing techniques for language modeling', section
3; their interpolation of all orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae.registry import UserError

UNDETERMINED = 0.5
"""The discount where the counts of counts determine none, as in very short texts."""
_LARGEST_KEY = 2**62


@dataclass(frozen=True, eq=False)
class _Order:
    """The n-grams of one length."""

    keys: NDArray[np.int64]
    """The n-grams as numbers in the base of the vocabulary's size, sorted."""
    discounted: NDArray[np.float64]
    """The discounted count of each, as a share of its context's."""
    contexts: NDArray[np.int64]
    """The contexts, sorted."""
    gamma: NDArray[np.float64]
    """The share of each context that is left to the shorter n-grams."""


class KneserNey:
    """A model of the next token from the last ``order - 1`` tokens, fitted on one sequence of tokens.

    Raises `UserError` for a sequence shorter than `order`, and where n-grams are too many to be numbered.
    """

    def __init__(self, tokens: NDArray[np.integer], order: int, d_vocab: int) -> None:
        if len(tokens) < order or d_vocab**order > _LARGEST_KEY:
            raise UserError(f"order = {order}: {len(tokens)} tokens of {d_vocab} cannot be modelled; lower it")
        self.order, self.d_vocab = order, d_vocab
        keys, counts = np.unique(_numbers(tokens.astype(np.int64), order, d_vocab), return_counts=True)
        self.orders: list[_Order] = [_fitted(keys, counts, d_vocab)]
        while len(self.orders) < order:
            # Of each n-gram, once for every token before it.
            keys, counts = np.unique(keys % d_vocab ** (order - len(self.orders)), return_counts=True)
            self.orders.insert(0, _fitted(keys, counts, d_vocab))

    def probabilities(self, contexts: NDArray[np.integer], words: NDArray[np.integer]) -> NDArray[np.float64]:
        """The probability of each word ``[n]`` after its context ``[n, order - 1]``."""
        p = np.full(len(words), 1.0 / self.d_vocab)
        key, context = words.astype(np.int64), np.zeros(len(words), dtype=np.int64)
        for length, grams in enumerate(self.orders, 1):
            if length > 1:
                before = contexts[:, self.order - length].astype(np.int64)
                key = key + before * self.d_vocab ** (length - 1)
                context = context + before * self.d_vocab ** (length - 2)
            # A context that was not seen leaves all to the shorter n-grams.
            p = _looked_up(grams.keys, grams.discounted, key, 0.0) + p * _looked_up(
                grams.contexts, grams.gamma, context, 1.0
            )
        return p

    def losses(self, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """The cross-entropy in nats of every token of a sequence but the first ``order - 1``, given those before it."""
        n = len(tokens) - self.order + 1
        contexts = (
            np.stack([tokens[i : i + n] for i in range(self.order - 1)], 1) if self.order > 1 else tokens[:, None]
        )
        return -np.log(self.probabilities(contexts, tokens[self.order - 1 :]))


def discounts(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """D_0 = 0 and D_1, D_2 and D_3 for n-grams with these counts, ``[4]``."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    found = np.array([0.0, *[UNDETERMINED] * 3])
    if n[1] == 0:
        return found
    y = n[1] / (n[1] + 2 * n[2])
    for i in (1, 2, 3):
        if n[i] > 0:
            d = i - (i + 1) * y * n[i + 1] / n[i]
            found[i] = d if 0 < d < i else UNDETERMINED
    return found


def _fitted(keys: NDArray[np.int64], counts: NDArray[np.int64], d_vocab: int) -> _Order:
    d = discounts(counts)[np.minimum(counts, 3)]
    contexts, first = np.unique(keys // d_vocab, return_index=True)
    of = np.repeat(np.arange(len(contexts)), np.diff(np.append(first, len(keys))))
    totals, left = np.bincount(of, counts), np.bincount(of, d)
    return _Order(keys, (counts - d) / totals[of], contexts, left / totals)


def _numbers(tokens: NDArray[np.int64], order: int, d_vocab: int) -> NDArray[np.int64]:
    n = len(tokens) - order + 1
    return sum((tokens[i : i + n] * d_vocab ** (order - 1 - i) for i in range(order)), np.zeros(n, dtype=np.int64))


def _looked_up(
    keys: NDArray[np.int64], values: NDArray[np.float64], wanted: NDArray[np.int64], absent: float
) -> NDArray[np.float64]:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], absent)

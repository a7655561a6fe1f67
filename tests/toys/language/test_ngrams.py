"""Kneser-Ney models, against numbers worked out by hand and a plain twin."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from sae.registry import UserError
from sae.toys.language.ngrams import UNDETERMINED, KneserNey, discounts

TEXT = np.random.default_rng(0).choice(5, size=200, p=[0.5, 0.25, 0.15, 0.07, 0.03])


def test_discounts_are_those_of_the_counts_of_counts():
    # n_1 .. n_4 = 10, 5, 2, 1: Y = 10 / 20, D_1 = 1 - 2 Y 5/10, D_2 = 2 - 3 Y 2/5, D_3 = 3 - 4 Y 1/2
    counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 2, 1, 3])
    assert discounts(counts).tolist() == pytest.approx([0, 0.5, 1.4, 2.0])
    assert discounts(np.array([7, 8])).tolist() == [0, *[UNDETERMINED] * 3]


def test_a_bigram_model_of_seven_tokens_by_hand():
    # a b a b a c a: ab 2, ba 2, ac 1, ca 1. n_1 = n_2 = 2, so Y = 1/3, D_1 = 1/3, D_2 = 2.
    # D_2 is not below the count it is taken from, so UNDETERMINED is used in its place.
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2, 0]), 2, 3)
    d1, d2 = 1 / 3, UNDETERMINED
    # Before a stand b and c, before b and c only a: continuation counts 2, 1, 1; n_1 = 2, n_2 = 1, Y = 1/2,
    # D_1 = 1/2, D_2 = 2 and so UNDETERMINED.
    left = (0.5 + 2 * 0.5) / 4
    one = {0: (2 - 0.5) / 4 + left / 3, 1: (1 - 0.5) / 4 + left / 3, 2: (1 - 0.5) / 4 + left / 3}
    gamma = (d1 + d2) / 3
    expected = [gamma * one[0], (2 - d2) / 3 + gamma * one[1], (1 - d1) / 3 + gamma * one[2]]
    found = model.probabilities(np.zeros((3, 1), dtype=int), np.arange(3))
    assert found.tolist() == pytest.approx(expected)
    assert sum(expected) == pytest.approx(1)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one_after_every_context(order: int):
    model, d_vocab = KneserNey(TEXT, order, 6), 6  # the token 5 is not in the text
    for context in product(range(d_vocab), repeat=order - 1):
        p = model.probabilities(np.tile(np.array(context, dtype=int), (d_vocab, 1)), np.arange(d_vocab))
        assert p.sum() == pytest.approx(1) and (p > 0).all()


def naive(tokens: list[int], d_vocab: int, context: tuple[int, ...], word: int) -> float:
    """The equations of the module, with dictionaries."""
    order = len(context) + 1
    counts = Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
    p = 1 / d_vocab
    for length in range(1, order + 1):
        of_length = counts
        for shorter in range(order - 1, length - 1, -1):
            of_length = Counter(gram[-shorter:] for gram in of_length)
        d = discounts(np.array(list(of_length.values())))
        h = context[order - length :]
        after = {gram[-1]: c for gram, c in of_length.items() if gram[:-1] == h}
        if after:
            total = sum(after.values())
            gamma = sum(d[min(c, 3)] for c in after.values()) / total
            c = after.get(word, 0)
            p = (c - d[min(c, 3)]) / total + gamma * p
    return float(p)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_agrees_with_a_plain_twin(order: int):
    model, heldout = KneserNey(TEXT, order, 6), np.random.default_rng(1).integers(0, 6, 40)
    expected = [
        -math.log(naive(TEXT.tolist(), 6, tuple(heldout[i - order + 1 : i].tolist()), int(heldout[i])))
        for i in range(order - 1, len(heldout))
    ]
    assert model.losses(heldout).tolist() == pytest.approx(expected)


def test_more_context_predicts_a_text_with_context_better():
    repeated = np.tile([0, 1, 2, 0, 2, 1], 50)
    losses = [KneserNey(repeated[:240], order, 3).losses(repeated[240:]).mean() for order in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2] and losses[2] < 0.1


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(UserError, match="order = 3: 2 tokens of 5 cannot be modelled"):
        KneserNey(np.array([1, 2]), 3, 5)

"""Baseline predictors: against plain loops, and on tasks where their loss is known."""

from __future__ import annotations

import math

import pytest
import torch

from sae.toys.attention.addition import Addition
from sae.toys.attention.predictors import DOUBT, SkipTrigrams, induction, predictor_losses
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.skip_trigram import SkipTrigram


@pytest.mark.parametrize("order", [2, 3, 5])
def test_induction_is_the_vote_of_the_longest_matches(order: int):
    tokens = torch.randint(3, (40, 12), generator=torch.Generator().manual_seed(0))
    predicted = induction(tokens, order, 3)
    for r, row in enumerate(tokens.tolist()):
        for p in range(12):
            votes = [0, 0, 0]
            for n in range(order - 1, 0, -1):
                context = row[p - n + 1 : p + 1] if p >= n - 1 else None
                ends = [j for j in range(n - 1, p) if row[j - n + 1 : j + 1] == context]
                if ends:
                    for j in ends:
                        votes[row[j + 1]] += 1
                    break
            expected = [(v + DOUBT) / (sum(votes) + 3 * DOUBT) for v in votes]
            assert predicted[r, p].tolist() == pytest.approx(expected)


def test_induction_solves_most_of_repeats_and_better_with_two_tokens_of_context():
    task = Repeats(vocabulary=32)
    found = predictor_losses(task, 0, task.batch(0, "test", 0, 500))
    assert found["induction_3"] < found["induction_2"] < 0.5
    assert found["uniform"] == pytest.approx(math.log(32)) and found["skip_trigrams"] > 3


def test_skip_trigrams_find_the_token_that_decides():
    task = SkipTrigram(k=3)
    tokens = task.batch(0, "test", 0, 500)
    trained = SkipTrigrams(task, task.batch(0, "train", 0, 5000))
    answers, seen = task.answers(tokens), task.labels(tokens)["a_seen"] == 1
    p = trained(tokens).gather(2, answers.clamp(min=0)[..., None])[..., 0]
    assert float(p[(answers >= 0) & seen].min()) > 0.99
    found = predictor_losses(task, 0, tokens)
    floor = float(task.floor(tokens)[answers >= 0].mean())
    assert floor < found["skip_trigrams"] < found["uniform"]


def test_induction_is_left_out_where_answers_are_no_next_tokens():
    task = Addition(n_digits=2, n_train=500, n_test=100)
    assert set(predictor_losses(task, 0, task.batch(0, "test", 0, 50))) == {"uniform", "skip_trigrams"}

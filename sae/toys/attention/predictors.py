"""Baseline predictors without a network: hand-written induction, and skip trigrams by counting.

Induction finds the longest context (at most ``order - 1`` tokens) that occurred earlier in the row and predicts the
tokens that followed it there; without a match its prediction is uniform. Skip trigrams count how often answer c follows
if token a occurred anywhere before and the current token is b; the pair (a, b) with the lowest entropy predicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.model.token_rows import NOTHING
from sae.source import Split
from sae.toys.attention.task import TokenTask, next_tokens

DOUBT = 0.01
"""Pseudo-count added to every count."""
COUNTED_ROWS = 5_000
"""Largest number of training rows in which skip trigrams are counted."""


def induction(
    tokens: Int[Tensor, "rows n_tokens"], order: int, d_vocab_out: int
) -> Float[Tensor, "rows n_tokens d_vocab_out"]:
    """Probabilities of the next token from the successors of the longest matches; uniform if there are none."""
    rows, n = tokens.shape
    equal = (tokens[:, :, None] == tokens[:, None, :]).int()
    length = torch.zeros(rows, n, n, dtype=torch.int)
    length[:, 0] = equal[:, 0]
    for i in range(1, n):
        before = torch.nn.functional.pad(length[:, i - 1, :-1], (1, 0))
        length[:, i] = equal[:, i] * (1 + before).clamp(max=order - 1)
    length = length.tril(-1)
    longest = length.max(-1, keepdim=True).values
    votes = (length[:, :, :-1] == longest) & (longest > 0)
    followed = torch.nn.functional.one_hot(tokens[:, 1:], int(tokens.max()) + 1).float()[..., :d_vocab_out]
    return _normalised(votes.float() @ torch.nn.functional.pad(followed, (0, d_vocab_out - followed.shape[-1])))


class SkipTrigrams:
    """Probabilities of answers for each earlier and current token, ``[d_vocab, d_vocab, d_vocab_out]``, by counting."""

    def __init__(self, task: TokenTask, tokens: Int[Tensor, "rows n_tokens"]) -> None:
        counts = torch.zeros(task.d_vocab, task.d_vocab, task.d_vocab_out)
        answers, seen = task.answers(tokens), _seen(tokens, task.d_vocab)
        for i in range(tokens.shape[1]):
            row, before = (seen[:, i] & (answers[:, i, None] != NOTHING)).nonzero(as_tuple=True)
            where = (before, tokens[row, i], answers[row, i])
            counts.index_put_(where, torch.ones(len(row)), accumulate=True)
        self.tables = _normalised(counts)
        self.entropy = -(self.tables * self.tables.log()).sum(-1)

    def __call__(self, tokens: Int[Tensor, "rows n_tokens"]) -> Float[Tensor, "rows n_tokens d_vocab_out"]:
        """The probabilities of the pair with the lowest entropy; uniform at the first position, which has no pair."""
        seen = _seen(tokens, len(self.tables))
        entropy = self.entropy.T[tokens].masked_fill(~seen, math.inf)
        p = self.tables[entropy.argmin(-1), tokens]
        return torch.where(seen.any(-1, keepdim=True), p, torch.full_like(p, 1 / p.shape[-1]))


def _seen(tokens: Tensor, d_vocab: int) -> Tensor:
    """Which tokens occurred before each position ``[rows, n_tokens, d_vocab]``."""
    occurred = torch.nn.functional.one_hot(tokens, d_vocab).cumsum(1) > 0
    return torch.nn.functional.pad(occurred[:, :-1], (0, 0, 1, 0))


def _normalised(counts: Tensor) -> Tensor:
    smoothed = counts + DOUBT
    return smoothed / smoothed.sum(-1, keepdim=True)


def predictor_losses(task: TokenTask, seed: int, tokens: Int[Tensor, "rows n_tokens"]) -> Mapping[str, float]:
    """The mean loss of each predictor on held-out rows, in nats per answer.

    The predictors are ``uniform``, ``skip_trigrams`` and, if answers are next tokens, ``induction_2`` and
    ``induction_3``, which match one token and up to two.
    """
    split: Split = "train"
    counted = task.batch(seed, split, 0, min(task.limit(split) or COUNTED_ROWS, COUNTED_ROWS))
    answers = task.answers(tokens)
    predictions = {"skip_trigrams": SkipTrigrams(task, counted)(tokens)}
    following = next_tokens(tokens)
    if bool(((answers == following) | (answers == NOTHING)).all()):
        predictions |= {f"induction_{n}": induction(tokens, n, task.d_vocab_out) for n in (2, 3)}
    has_answer = answers != NOTHING
    losses = {
        name: p[has_answer].gather(1, answers[has_answer][:, None]).log().neg() for name, p in predictions.items()
    }
    means = {name: float(loss.double().mean()) for name, loss in losses.items()}
    return {"uniform": math.log(task.d_vocab_out), **means}

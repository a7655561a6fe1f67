"""Which attention heads matter for which outcomes, by ablation: heads per outcome and outcomes per head.

The measure and its control are those of :mod:`sae.analysis.circuits.outcomes`. Outcomes are skip trigrams or the most
frequent next tokens of the text; it is the training text, since no dictionary is involved.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.circuits.outcomes import Events, effects, frequent, heads_of, sharing, skip_trigrams
from sae.registry import UserError

SHOWN = 20


class Config(QuestionConfig):
    """Settings of the question `heads`."""

    kind: Literal["heads"] = "heads"
    outcomes: Literal["skip_trigrams", "frequent"] = "skip_trigrams"
    """Skip trigrams, or the most frequent next tokens."""
    how: Literal["mean", "zero"] = "mean"
    """The value of an ablated head."""
    n_rows: int = Field(default=500, gt=0)
    """Number of rows of tokens."""
    n_outcomes: int = Field(default=40, gt=1)
    """Number of outcomes."""
    events: int = Field(default=50, gt=1)
    """Largest number of positions per outcome."""
    least: int = Field(default=20, gt=0)
    """Smallest number of positions of a skip trigram."""
    draws: int = Field(default=200, gt=1)
    """Number of permutations of the control."""

    def answer(self, context: QuestionContext) -> Answer:
        model = context.model
        model.check_logits()
        names = [f"{layer}.{head}" for layer, head in heads_of(model)]
        text = context.activations.tokens("train")[: self.n_rows]
        if self.outcomes == "frequent":
            events = frequent(text, self.n_outcomes, self.events)
        else:
            events = skip_trigrams(text, self.n_outcomes, self.least, self.events)
        if len(events.outcomes) < 2:
            raise UserError(
                f"ask.heads.outcomes = {self.outcomes}: {len(events.outcomes)} in {len(text)} rows of tokens, two are "
                "needed; give more rows (ask.heads.n_rows), a lower ask.heads.least, or ask.heads.outcomes=frequent"
            )
        ablated = effects(model, text, events, self.how, context.activations.config.rows_at_once)
        shared = sharing(ablated, events, self.draws, self.seed)
        summary: list[list[AnswerValue]] = [
            ["heads per outcome", shared.heads_per_outcome, shared.heads_permuted],
            ["outcomes per head", shared.outcomes_per_head, shared.outcomes_permuted],
            ["share of specific pairs", shared.specific, shared.specific_permuted],
        ]
        words = [" ".join(context.token(outcome)) for outcome in events.outcomes]
        facts = {
            "heads": len(names),
            "outcomes": len(words),
            "events": len(events.outcome),
            "value of an ablated head": self.how,
            "mean log-probability with all heads": float(ablated.clean.mean()),
        }
        tables = [
            AnswerTable("how heads share outcomes", ("", "measured", "permuted outcomes"), summary),
            _strongest(words, names, events, shared.matrix, shared.is_specific),
        ]
        data = {
            "heads": names,
            "outcomes": words,
            "matrix": shared.matrix.tolist(),
            "specific": shared.is_specific.tolist(),
        }
        return Answer(tables, facts, data)


def _strongest(
    words: list[str], names: list[str], events: Events, matrix: torch.Tensor, specific: torch.Tensor
) -> AnswerTable:
    """The three heads whose ablation lowers the log-probability of each outcome most; specific ones have a star."""
    count = events.outcome.bincount(minlength=len(words)).tolist()
    rows: list[list[AnswerValue]] = []
    for o in range(min(len(words), SHOWN)):
        best = matrix[:, o].argsort(descending=True, stable=True)[:3].tolist()
        rows.append(
            [words[o], count[o], *(f"{names[h]}{'*' * bool(specific[h, o])} {matrix[h, o]:+.3f}" for h in best)]
        )
    title = "decrease of log-probability when a head is ablated: the three strongest heads (* specific)"
    return AnswerTable(title, ("outcome", "events", "first", "second", "third"), rows)

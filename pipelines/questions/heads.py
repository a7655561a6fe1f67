"""Which attention heads serve which outcomes, by ablating each: whether heads share outcomes and outcomes heads.

The measure and its control: :mod:`sae.analysis.circuits.outcomes`. Outcomes are found in the text (training rows,
since no
dictionary is asked): skip trigrams, or the most frequent next tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.circuits.heads import n_heads
from sae.analysis.circuits.outcomes import Events, effects, frequent, sharing, skip_trigrams
from sae.registry import UserError

SHOWN = 20


class Config(QuestionConfig):
    """`n_outcomes` of a kind, each at no more than `events` places of `n_rows` rows of tokens; skip trigrams stand in
    at least `least` places. Heads are put at their `mean`, or at `zero`."""

    kind: Literal["heads"] = "heads"
    outcomes: Literal["skip_trigrams", "frequent"] = "skip_trigrams"
    how: Literal["mean", "zero"] = "mean"
    n_rows: int = Field(default=500, gt=0)
    n_outcomes: int = Field(default=40, gt=1)
    events: int = Field(default=50, gt=1)
    least: int = Field(default=20, gt=0)
    draws: int = Field(default=200, gt=1)

    def answer(self, asked: QuestionContext) -> Answer:
        model, text = asked.model, asked.activations.tokens("train")[: self.n_rows]
        if self.outcomes == "frequent":
            events = frequent(text, self.n_outcomes, self.events)
        else:
            events = skip_trigrams(text, self.n_outcomes, self.least, self.events)
        if len(events.outcomes) < 2:
            raise UserError(
                f"the text has {len(events.outcomes)} such outcomes in {len(text)} rows; give more rows, a lower "
                "ask.heads.least, or ask.heads.outcomes=frequent"
            )
        found = effects(model, text, events, self.how, asked.activations.config.rows_at_once)
        told = sharing(found, events, self.draws, self.seed)
        names = [f"{layer}.{head}" for layer in range(model.n_layers) for head in range(n_heads(model))]
        summary: list[list[AnswerValue]] = [
            ["heads of an outcome", told.heads_per_outcome, told.heads_permuted],
            ["outcomes of a head", told.outcomes_per_head, told.outcomes_permuted],
            ["share of specific pairs", told.specific, told.specific_permuted],
        ]
        words = [" ".join(asked.token(outcome)) for outcome in events.outcomes]
        facts = {
            "heads": len(names),
            "outcomes": len(words),
            "events": len(events.outcome),
            "ablated heads are put at": self.how,
            "mean log-probability with all heads": float(found.clean.mean()),
        }
        tables = [
            AnswerTable("who shares with whom", ("", "found", "outcomes permuted"), summary),
            _strongest(words, names, events, told.matrix, told.is_specific),
        ]
        data = {
            "heads": names,
            "outcomes": words,
            "matrix": told.matrix.tolist(),
            "specific": told.is_specific.tolist(),
        }
        return Answer(tables, facts, data)


def _strongest(
    words: list[str], names: list[str], events: Events, matrix: torch.Tensor, specific: torch.Tensor
) -> AnswerTable:
    """The three heads whose ablation takes most from each outcome; those that are specific have a star."""
    count = events.outcome.bincount(minlength=len(words)).tolist()
    rows: list[list[AnswerValue]] = []
    for o in range(min(len(words), SHOWN)):
        best = matrix[:, o].argsort(descending=True, stable=True)[:3].tolist()
        rows.append(
            [words[o], count[o], *(f"{names[h]}{'*' * bool(specific[h, o])} {matrix[h, o]:+.3f}" for h in best)]
        )
    title = "what each outcome loses in log-probability by its three strongest heads (* specific)"
    return AnswerTable(title, ("outcome", "events", "first", "second", "third"), rows)

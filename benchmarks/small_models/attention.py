"""Attention superposition: heads of a one-layer model and the skip trigrams that they serve."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.small_models import Models
from benchmarks.studies import Fact
from sae.analysis.circuits.outcomes import effects, heads_of, sharing, skip_trigrams

SEEDS = (0, 1)
N_ROWS = 500
N_OUTCOMES = 40
"""Skip trigrams, more than the 16 heads."""


def heads_16(models: Models) -> Iterator[Fact]:
    """A one-layer model with 16 heads: over how many heads a skip trigram's prediction is spread, next to the same
    with the trigrams of the events permuted."""
    for seed in SEEDS:
        trained = models.trained({"n_heads": 16, "mlp_ratio": 4}, seed=seed)
        model, rows = trained.model(), trained.rows(N_ROWS, "train")
        events = skip_trigrams(rows, N_OUTCOMES, 20, 50)
        shared = sharing(effects(model, rows, events, "mean", 32), events, 200, seed)
        about = f"seed {seed}, {len(heads_of(model))} heads, {len(events.outcomes)} skip trigrams"
        yield Fact(
            f"{about}: heads per trigram (permuted)", "", f"{shared.heads_per_outcome} ({shared.heads_permuted})"
        )
        yield Fact(
            f"{about}: trigrams per head (permuted)",
            "more than 1",
            f"{shared.outcomes_per_head} ({shared.outcomes_permuted})",
        )
        yield Fact(
            f"{about}: share of pairs with an effect of their own (permuted)",
            "",
            f"{shared.specific} ({shared.specific_permuted})",
        )

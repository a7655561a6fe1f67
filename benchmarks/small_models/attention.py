"""A one-layer model with 16 heads: attention superposition over skip trigrams, and its MLP neuron by neuron."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.small_models import HELDOUT_ROWS, Models, strongest
from benchmarks.studies import Fact
from sae.analysis.circuits.outcomes import effects, heads_of, sharing, skip_trigrams
from sae.analysis.geometry.moments import matched_gaussian
from sae.analysis.geometry.order import adjacent, order_with_controls, seriation
from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator

SEEDS = (0, 1)
HEADS = {"n_heads": 16}
"""What differs from the form of every model."""
N_ROWS = 500
N_OUTCOMES = 40
"""Skip trigrams, more than the 16 heads."""


def heads_16(models: Models) -> Iterator[Fact]:
    """A one-layer model with 16 heads: over how many heads a skip trigram's prediction is spread, next to the same
    with the trigrams of the events permuted."""
    for seed in SEEDS:
        trained = models.trained(HEADS, seed=seed)
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


def neuron_order(models: Models) -> Iterator[Fact]:
    """The MLP of the model with 16 heads: mean cos² of neighbours when its 512 neurons are ordered by similarity, next
    to the same neurons shuffled, and to ordered Gaussian rows of the same covariance."""
    for seed in SEEDS:
        mlp: Any = models.trained(HEADS, seed=seed).network().blocks[0]
        for name, W in (("input", mlp.mlp._modules["in"].weight), ("output", mlp.mlp.out.weight.T)):
            rows = W.detach()
            o = order_with_controls(rows, randoms=1)
            gaussian = matched_gaussian((rows.T @ rows / len(rows)).double(), len(rows), seed, 3)
            alike = [adjacent(drawn, seriation(drawn, o.way)) for drawn in gaussian]
            yield Fact(
                f"seed {seed}, {name} weights: neurons in order (shuffled; Gaussian rows alike, in order)",
                "above both",
                f"{o.adjacent:.3f} ({o.shuffled.mean:.3f}; {sum(alike) / 3:.3f})",
            )


def neuron_pages(models: Models) -> Iterator[Fact]:
    """The MLP of the model with 16 heads: whether what a neuron writes agrees with the text after its ten strongest
    examples. The share of neurons whose most promoted token follows one of them, next to other neurons' examples."""
    for seed in SEEDS:
        trained = models.trained(HEADS, seed=seed)
        network, rows = trained.network(), trained.rows(HELDOUT_ROWS)
        row, position = rows.kept.nonzero(as_tuple=True)
        top = strongest(network, rows, {"neurons": (trained.settings.model.d_mlp, lambda x: x)})["neurons"]
        following = torch.nn.functional.pad(rows.tokens, (0, 1), value=NOTHING)[row, position + 1][top.rows]
        block: Any = network.blocks[0]
        effect = (network.unembed.weight * network.ln_final.weight) @ block.mlp.out.weight
        promoted = (effect - effect.mean(0)).argmax(0)
        other = torch.randperm(len(promoted), generator=generator("pages", seed))
        agree, by_chance = ((following == of).any(0).float().mean() for of in (promoted, promoted[other]))
        yield Fact(
            f"seed {seed}: share of neurons (by chance)", "above chance", f"{float(agree):.3f} ({float(by_chance):.3f})"
        )

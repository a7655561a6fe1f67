"""Which attention heads affect which outcomes: ablations of single heads, measured on many outcomes.

    effect(h, o) = mean over events of o of  log p(o | all heads) - log p(o | head h ablated)

An outcome is a token to be predicted: one of the most frequent, or that of a skip trigram, ``s ... d -> o`` with s
anywhere before d (Elhage et al. 2021, 'A Mathematical Framework for Transformer Circuits'); its events are the places
where it is the next token. Fewer heads than outcomes is not yet superposition, which also requires that outcomes are
spread over heads and heads over outcomes ('Attention head superposition', Circuits Updates, May 2023).

    heads per outcome     (sum_h |effect|)^2 / sum_h effect^2, the participation ratio; outcomes per head likewise
    specific              the share of pairs (h, o) whose effect differs from the effect of h on outcomes in general

The control permutes the outcomes of the events. A head helps prediction in general, and the participation ratios of the
control show how evenly heads do; `specific` counts effects outside the 95% interval of the control, 5% by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.circuits.heads import effective_heads, logits_with, mean_z
from sae.model.hooked import Model
from sae.model.parts import layers_with_heads, n_heads
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import derive, generator
from sae.numerics.statistics import LEVEL, Interval, bootstrap, of_draws

AblationValue = Literal["zero", "mean"]


@dataclass(frozen=True)
class Events:
    """Places where outcomes are the next token."""

    outcomes: list[tuple[int, ...]]
    """The tokens of each outcome: the outcome alone, or source, destination and outcome."""
    row: Int[Tensor, " n_events"]
    """The row of tokens of each event."""
    position: Int[Tensor, " n_events"]
    """The position at which the outcome is predicted."""
    outcome: Int[Tensor, " n_events"]
    """The number of the event's outcome in `outcomes`."""

    @property
    def target(self) -> Int[Tensor, " n_events"]:
        """The token to be predicted at each event."""
        return torch.tensor([tokens[-1] for tokens in self.outcomes])[self.outcome]


def frequent(rows: TokenRows, n: int, most: int = 100) -> Events:
    """The `n` most frequent targets, each at its first `most` places."""
    counted, targets = rows.counted.cpu(), rows.targets.cpu()
    tokens, count = targets[counted].unique(return_counts=True)
    chosen = tokens[count.argsort(descending=True, stable=True)[:n]]
    return _events([(int(t),) for t in chosen], [counted & (targets == t) for t in chosen], most)


def skip_trigrams(rows: TokenRows, n: int, least: int = 20, most: int = 100, bigrams: int = 300) -> Events:
    """The `n` skip trigrams with the strongest sources: each of the `bigrams` most frequent neighbours d, o is paired
    with the source s that raises p(o | d) by the most standard errors, among sources seen in at least `least` places.
    A source equal to d or o would be repetition and is left out. Each trigram is taken at its first `most` places."""
    counted = rows.counted.cpu()
    tokens, targets = rows.tokens.cpu()[:, : counted.shape[1]], rows.targets.cpu()
    d_vocab = int(max(tokens.max(), targets.max())) + 1
    code = torch.where(counted, tokens * d_vocab + targets, -1)
    pairs, count = code[counted].unique(return_counts=True)
    pairs = pairs[count.argsort(descending=True, stable=True)[:bigrams]].sort().values
    destination, outcome = pairs // d_vocab, pairs % d_vocab
    both, alone = _with_sources(tokens, code, counted, pairs, d_vocab)
    n_both = torch.stack([(code == pair).sum() for pair in pairs])
    n_alone = torch.stack([((tokens == d) & counted).sum() for d in destination])
    expected = alone * (n_both / n_alone)[:, None]
    stands_out = (both - expected) / expected.clamp(min=1).sqrt()
    stands_out[both < least] = -torch.inf
    for excluded in (destination, outcome):
        stands_out[torch.arange(len(pairs)), excluded] = -torch.inf
    strength, source = stands_out.max(1)
    chosen = [m for m in strength.argsort(descending=True, stable=True).tolist() if strength[m] > 0][:n]
    trigrams = [(int(source[m]), int(destination[m]), int(outcome[m])) for m in chosen]
    places = [(code == pairs[m]) & _seen(tokens, int(source[m])) for m in chosen]
    return _events(trigrams, places, most)


def _with_sources(
    tokens: Tensor, code: Tensor, counted: Tensor, pairs: Tensor, d_vocab: int
) -> tuple[Float[Tensor, "pairs d_vocab"], Float[Tensor, "pairs d_vocab"]]:
    """For each pair d, o and each token, the number of places of the pair before which the token occurs in the row; and
    the same for places of d alone."""
    seen = torch.zeros(len(tokens), d_vocab)
    both = torch.zeros(len(pairs), d_vocab)
    dests, of = (pairs // d_vocab).unique(return_inverse=True)
    alone = torch.zeros(len(dests), d_vocab)
    for t in range(tokens.shape[1]):
        for keys, values, table in ((pairs, code[:, t].contiguous(), both), (dests, tokens[:, t].contiguous(), alone)):
            at = torch.searchsorted(keys, values).clamp(max=len(keys) - 1)
            here = (keys[at] == values) & counted[:, t]
            table.index_add_(0, at[here], seen[here])
        seen.scatter_(1, tokens[:, t : t + 1], 1.0)
    return both, alone[of]


def _seen(tokens: Tensor, source: int) -> Tensor:
    """The positions before which the source occurs in the row."""
    seen = (tokens == source).cumsum(1) > 0
    return torch.nn.functional.pad(seen[:, :-1], (1, 0))


def _events(outcomes: list[tuple[int, ...]], places: list[Tensor], most: int) -> Events:
    """The first places of each outcome. Rows of text are shuffled, so these are a random sample; they lie in few rows,
    and the model is run on each of those for every head."""
    parts = [at.nonzero()[:most] for at in places]
    where = torch.cat([*parts, torch.zeros(0, 2, dtype=torch.long)])
    outcome = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(p) for p in parts], dtype=torch.long))
    return Events(outcomes, where[:, 0], where[:, 1], outcome)


@dataclass(frozen=True)
class Effects:
    """Effects of head ablations on single events."""

    change: Float[Tensor, "heads n_events"]
    """The drop of the outcome's log-probability when the head is ablated, in the order of :func:`heads_of`."""
    clean: Float[Tensor, " n_events"]
    """The outcome's log-probability with all heads."""

    def matrix(self, events: Events, order: Tensor | None = None) -> Float[Tensor, "heads n_outcomes"]:
        """The mean over each outcome's events; `order` permutes the outcomes of the events."""
        outcome = events.outcome if order is None else events.outcome[order]
        n = outcome.bincount(minlength=len(events.outcomes))
        total = torch.zeros(len(self.change), len(events.outcomes)).index_add_(1, outcome, self.change)
        return total / n


def heads_of(model: Model) -> list[tuple[int, int]]:
    """The layer and the number of every attention head: all heads of the first layer that has some, then of the next.

    Raises `UserError` if the model has none.
    """
    return [(layer, head) for layer in layers_with_heads(model) for head in range(n_heads(model, layer))]


def effects(
    model: Model, rows: TokenRows, events: Events, value: AblationValue = "mean", rows_at_once: int = 16
) -> Effects:
    """Every head of every layer ablated in turn, to zero or to its mean over the rows' kept positions; one forward
    pass for each head over the rows that have events.

    Raises `UserError` if the model has no heads, or if its logits do not predict the next token.
    """
    model.check_logits()
    heads = heads_of(model)
    n_of = {layer: 1 + head for layer, head in heads}
    means = mean_z(model, rows, rows_at_once) if value == "mean" else None
    needed = events.row.unique()
    clean = torch.zeros(len(events.row))
    change = torch.zeros(len(heads), len(events.row))
    target = events.target
    for batch in needed.split(rows_at_once):
        at = torch.isin(events.row, batch).nonzero()[:, 0]
        places = torch.searchsorted(batch, events.row[at]), events.position[at], target[at]
        part = TokenRows(*(x[batch] for x in (rows.tokens, rows.attended, rows.kept)))
        clean[at] = _log_probability(model.logits(part), *places)
        for i, (layer, head) in enumerate(heads):
            kept = torch.arange(n_of[layer]) != head
            instead = None if means is None else means[layer]
            change[i, at] = clean[at] - _log_probability(logits_with(model, part, kept, layer, instead), *places)
    return Effects(change, clean)


def _log_probability(logits: Tensor, row: Tensor, position: Tensor, target: Tensor) -> Float[Tensor, " n"]:
    at = logits[row.to(logits.device), position.to(logits.device)].float().log_softmax(-1).cpu()
    return at.gather(1, target[:, None])[:, 0]


@dataclass(frozen=True)
class Sharing:
    """How outcomes are spread over heads and heads over outcomes, with permuted outcomes as the control.

    Intervals are of the bootstrap over outcomes or heads; those of controls hold 95% of the permutations.
    """

    matrix: Float[Tensor, "heads n_outcomes"]
    """The mean effect of each head on each outcome, in nats."""
    heads_per_outcome: Interval
    """Mean participation ratio of the heads of an outcome."""
    heads_permuted: Interval
    """The same with permuted outcomes."""
    outcomes_per_head: Interval
    """Mean participation ratio of the outcomes of a head."""
    outcomes_permuted: Interval
    """The same with permuted outcomes."""
    specific: Interval
    """The share of pairs (head, outcome) whose effect lies outside the interval of permuted outcomes."""
    specific_permuted: Interval
    """The same with permuted outcomes: about .05."""
    is_specific: Bool[Tensor, "heads n_outcomes"]
    """Which pairs are counted as specific."""


def sharing(measured: Effects, events: Events, draws: int = 200, seed: int = 0) -> Sharing:
    """Participation ratios and specific pairs of measured effects; every outcome needs at least one event."""
    matrix, draw = measured.matrix(events), generator("sharing", seed)
    orders = [torch.randperm(len(events.outcome), generator=draw) for _ in range(draws)]
    null = torch.stack([measured.matrix(events, order) for order in orders])
    low, high = (null.quantile(q, 0) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    is_specific = (matrix < low) | (matrix > high)
    outside = ((null < low) | (null > high)).float().mean((1, 2))

    def mean_with_interval(values: Tensor) -> Interval:
        x = values.double().numpy()
        return Interval(float(np.nanmean(x)), *bootstrap(x, derive("sharing", seed)))

    return Sharing(
        matrix,
        mean_with_interval(effective_heads(matrix.T.contiguous())),
        of_draws(effective_heads(null.transpose(1, 2)).nanmean(1).tolist()),
        mean_with_interval(effective_heads(matrix)),
        of_draws(effective_heads(null).nanmean(1).tolist()),
        mean_with_interval(is_specific.float().mean(0)),
        of_draws(outside.tolist()),
        is_specific,
    )

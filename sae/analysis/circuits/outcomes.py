"""Which heads of a model serve which outcomes: single ablations against many outcomes.

    effect(h, o) = mean over events of o of  log p(o | all heads) - log p(o | head h ablated)

An outcome is a token that is to be predicted: one of the most frequent, or that of a skip trigram, ``s ... d -> o``
with s anywhere before d (Elhage et al. 2021, 'A Mathematical Framework for Transformer Circuits'); its events are the
places where it is the next token. Fewer heads than outcomes do not tell superposition yet: it takes that an outcome is
spread over heads, and heads over outcomes ('Attention head superposition', Circuits Updates, May 2023).

    heads of an outcome     (sum_h |effect|)^2 / sum_h effect^2, the participation ratio; outcomes of a head likewise
    specific                the share of pairs (h, o) whose effect is not what h has on any outcome

The control permutes the outcomes of the events. Heads help all of language along, and the ratios of the permuted say
how evenly; `specific` counts effects beyond the 95% interval of the permuted, of which 5% are by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.circuits.heads import effective_heads, logits_with, mean_z, n_heads
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import derive, generator
from sae.numerics.statistics import LEVEL, Interval, bootstrap, of_draws

How = Literal["zero", "mean"]


@dataclass(frozen=True)
class Events:
    """Where outcomes are the next token. `outcomes` holds for each its tokens: the outcome alone, or source,
    destination and outcome; `outcome` says of each event which it is."""

    outcomes: list[tuple[int, ...]]
    row: Int[Tensor, " n_events"]
    position: Int[Tensor, " n_events"]
    outcome: Int[Tensor, " n_events"]

    @property
    def target(self) -> Int[Tensor, " n_events"]:
        """The token that is to be predicted at each event."""
        return torch.tensor([tokens[-1] for tokens in self.outcomes])[self.outcome]


def frequent(rows: TokenRows, n: int, most: int = 100) -> Events:
    """The `n` tokens that are to be predicted most often, each at its first places, no more than `most`."""
    counted, targets = rows.counted.cpu(), rows.targets.cpu()
    tokens, count = targets[counted].unique(return_counts=True)
    chosen = tokens[count.argsort(descending=True, stable=True)[:n]]
    return _events([(int(t),) for t in chosen], [counted & (targets == t) for t in chosen], most)


def skip_trigrams(rows: TokenRows, n: int, least: int = 20, most: int = 100, bigrams: int = 300) -> Events:
    """The `n` skip trigrams that stand out most: of the `bigrams` most frequent pairs d, o of neighbours, each with the
    source s that raises p(o | d) by most standard errors, in at least `least` places. A source that is d or o itself
    would be repetition, and is left out. Each counts at its first places, no more than `most`."""
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
    for own in (destination, outcome):
        stands_out[torch.arange(len(pairs)), own] = -torch.inf
    by, source = stands_out.max(1)
    chosen = [m for m in by.argsort(descending=True, stable=True).tolist() if by[m] > 0][:n]
    found = [(int(source[m]), int(destination[m]), int(outcome[m])) for m in chosen]
    places = [(code == pairs[m]) & _seen(tokens, int(source[m])) for m in chosen]
    return _events(found, places, most)


def _with_sources(
    tokens: Tensor, code: Tensor, counted: Tensor, pairs: Tensor, d_vocab: int
) -> tuple[Float[Tensor, "pairs d_vocab"], Float[Tensor, "pairs d_vocab"]]:
    """In how many places of each pair d, o, and of its d alone, each token was seen before."""
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
    """Where the source stands anywhere before."""
    found = (tokens == source).cumsum(1) > 0
    return torch.nn.functional.pad(found[:, :-1], (1, 0))


def _events(outcomes: list[tuple[int, ...]], places: list[Tensor], most: int) -> Events:
    """The first places of each: rows of text come shuffled, so that these are a sample, and in few rows, all of which
    the model has to be run on for every head."""
    parts = [at.nonzero()[:most] for at in places]
    where = torch.cat([*parts, torch.zeros(0, 2, dtype=torch.long)])
    outcome = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(p) for p in parts], dtype=torch.long))
    return Events(outcomes, where[:, 0], where[:, 1], outcome)


@dataclass(frozen=True)
class Effects:
    """`change` is what each head's ablation takes from the log-probability of each event's outcome; heads are all of
    layer 0, then those of layer 1, and so on. `clean` is that log-probability with all heads."""

    change: Float[Tensor, "heads n_events"]
    clean: Float[Tensor, " n_events"]

    def matrix(self, events: Events, order: Tensor | None = None) -> Float[Tensor, "heads n_outcomes"]:
        """The mean over each outcome's events; `order` deals the events to the outcomes otherwise."""
        outcome = events.outcome if order is None else events.outcome[order]
        n = outcome.bincount(minlength=len(events.outcomes))
        total = torch.zeros(len(self.change), len(events.outcomes)).index_add_(1, outcome, self.change)
        return total / n


def effects(model: Model, rows: TokenRows, events: Events, how: How = "mean", rows_at_once: int = 16) -> Effects:
    """Every head of every layer ablated in turn, to nothing or to its mean over the rows' kept positions; one forward
    pass for each head over the rows that have events."""
    heads, layers = n_heads(model), model.n_layers
    means = mean_z(model, rows, rows_at_once) if how == "mean" else None
    needed = events.row.unique()
    clean = torch.zeros(len(events.row))
    change = torch.zeros(layers * heads, len(events.row))
    target = events.target
    for some in needed.split(rows_at_once):
        at = torch.isin(events.row, some).nonzero()[:, 0]
        here = torch.searchsorted(some, events.row[at]), events.position[at], target[at]
        part = TokenRows(*(x[some] for x in (rows.tokens, rows.attended, rows.kept)))
        clean[at] = _said(model.logits(part), *here)
        for layer in range(layers):
            instead = None if means is None else means[layer]
            for head in range(heads):
                kept = torch.arange(heads) != head
                said = _said(logits_with(model, part, kept, layer, instead), *here)
                change[layer * heads + head, at] = clean[at] - said
    return Effects(change, clean)


def _said(logits: Tensor, row: Tensor, position: Tensor, target: Tensor) -> Float[Tensor, " n"]:
    at = logits[row.to(logits.device), position.to(logits.device)].float().log_softmax(-1).cpu()
    return at.gather(1, target[:, None])[:, 0]


@dataclass(frozen=True)
class Sharing:
    """How heads and outcomes share: means with bootstrap intervals over outcomes, or heads, each beside its value with
    permuted outcomes, with the interval of the draws. `is_specific` says which pairs are counted as such."""

    matrix: Float[Tensor, "heads n_outcomes"]
    heads_per_outcome: Interval
    heads_permuted: Interval
    outcomes_per_head: Interval
    outcomes_permuted: Interval
    specific: Interval
    specific_permuted: Interval
    is_specific: Tensor


def sharing(found: Effects, events: Events, draws: int = 200, seed: int = 0) -> Sharing:
    """From the effects on events; outcomes without events are to be left out before."""
    matrix, draw = found.matrix(events), generator("sharing", seed)
    orders = [torch.randperm(len(events.outcome), generator=draw) for _ in range(draws)]
    null = torch.stack([found.matrix(events, order) for order in orders])
    low, high = (null.quantile(q, 0) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    is_specific = (matrix < low) | (matrix > high)
    outside = ((null < low) | (null > high)).float().mean((1, 2))

    def told(values: Tensor) -> Interval:
        x = values.double().numpy()
        return Interval(float(np.nanmean(x)), *bootstrap(x, derive("sharing", seed)))

    return Sharing(
        matrix,
        told(effective_heads(matrix.T.contiguous())),
        of_draws(effective_heads(null.transpose(1, 2)).nanmean(1).tolist()),
        told(effective_heads(matrix)),
        of_draws(effective_heads(null).nanmean(1).tolist()),
        told(is_specific.float().mean(0)),
        of_draws(outside.tolist()),
        is_specific,
    )

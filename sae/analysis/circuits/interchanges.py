"""Interchange interventions: a part of the residual stream of one row is put into another.

For a base row with activation x and a source row with activation x' at a hook point and a position of each row, and an
orthonormal basis B ``[r, d]`` of a subspace,

    x  ->  x + (x' - x) B^T B

replaces what x has in the subspace by what x' has, and leaves the rest. With L the logit of the source's answer minus
that of the base's,

    moved     mean (L after - L of the base) / mean (L of the source - L of the base)
    accuracy  the share of pairs in which the source's answer then has the highest logit

`moved` is 0 where nothing is replaced, and 1 in the whole space at a place that alone determines the logits. A subspace
carries what the answer depends on, if interchanging it moves the answer (Geiger et al. 2021, 'Causal abstractions of
neural networks'); :func:`learned_subspace` finds one by gradient descent on the source's answer ('distributed alignment
search', Geiger et al. 2023, 'Finding alignments between interpretable causal variables and distributed neural
representations'). It is fitted on pairs, so it is measured on others; random subspaces of as many dimensions are the
control.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.numerics.statistics import LEVEL, Interval
from sae.registry import UserError

Basis = Float[Tensor, "r d"]


@dataclass(frozen=True, eq=False)
class RowPairs:
    """Pairs of rows with different answers, which are read at one position."""

    base: Int[Tensor, "pairs n_tokens"]
    """The rows that are changed."""
    source: Int[Tensor, "pairs n_tokens"]
    """The rows that the change is taken from."""
    answers: Int[Tensor, "pairs 2"]
    """The answer of the base and that of the source."""
    position: int
    """Where the answer is read."""
    places: Int[Tensor, "pairs 2"]
    """Where activations are interchanged, in the base and in the source."""

    def __getitem__(self, part: slice) -> RowPairs:
        parts = {name: getattr(self, name)[part] for name in ("base", "source", "answers", "places")}
        return replace(self, **parts)

    def __len__(self) -> int:
        return len(self.base)


def pairs_of(
    tokens: Int[Tensor, "rows n_tokens"],
    answers: Int[Tensor, " rows"],
    position: int,
    seed: int = 0,
    places: Int[Tensor, " rows"] | None = None,
) -> RowPairs:
    """Each row with another one, drawn at random; pairs with the same answer are left out.

    `places` is where the activation of each row is interchanged; None: at `position`, where the answer is read. Raises
    `UserError` if no pair is left.
    """
    places = torch.full_like(answers, position) if places is None else places
    other = torch.randperm(len(tokens), generator=generator("interchange", seed))
    differ = answers != answers[other]
    if not bool(differ.any()):
        raise UserError("answers: all pairs of rows have the same answer; give rows with different answers")
    both, at = (torch.stack([of, of[other]], 1)[differ] for of in (answers, places))
    return RowPairs(tokens[differ], tokens[other][differ], both, position, at)


class Interchanged(NamedTuple):
    """What an interchange does, with 95% intervals of the bootstrap over pairs."""

    moved: Interval
    """The share of the difference between both rows' logits that moves."""
    accuracy: Interval
    """The share of pairs that then have the source's answer."""


def interchange(
    model: Model, pairs: RowPairs, hook: str, basis: Basis, draws: int = 500, seed: int = 0
) -> Interchanged:
    """What replacing the part in the span of an orthonormal basis, at a hook point, does to the answers.

    Raises `UserError` if the rows of the basis are not orthonormal.
    """
    if not torch.allclose(basis @ basis.T, torch.eye(len(basis)).to(basis), atol=1e-4):
        raise UserError("basis: its rows are not orthonormal; pass those of torch.linalg.qr")
    base, source = _rows(pairs.base, pairs.places[:, 0]), _rows(pairs.source, pairs.places[:, 1])
    given = model.activations(source.tokens, source.attended, hook)[source.kept]

    def replaced(x: Tensor) -> Tensor:
        return x + (given.to(x) - x) @ basis.T.to(x) @ basis.to(x)

    clean, wanted = (model.logits(rows)[:, pairs.position].cpu() for rows in (base, source))
    after = model.logits(base, hook, replaced)[:, pairs.position].cpu()
    before, there, here = (_ahead(logits, pairs.answers) for logits in (clean, wanted, after))
    right = (after.argmax(1) == pairs.answers[:, 1]).double()
    return Interchanged(
        _ratio(here - before, there - before, draws, seed), _ratio(right, torch.ones_like(right), draws, seed)
    )


def learned_subspace(
    model: Model,
    pairs: RowPairs,
    hook: str,
    r: int,
    steps: int = 150,
    lr: float = 0.03,
    batch: int = 128,
    seed: int = 0,
) -> Basis:
    """An orthonormal basis of `r` directions that minimises the cross-entropy of the source's answer after the
    interchange, by Adam on a matrix whose Q factor is the basis."""
    device, d = model.device, model.width(hook)
    free = torch.randn(d, r, generator=generator("interchange", "basis", seed)).to(device).requires_grad_()
    optimizer, draw = torch.optim.Adam([free], lr), generator("interchange", "batches", seed)
    source = _rows(pairs.source, pairs.places[:, 1])
    parts = (source[start : start + 512] for start in range(0, len(source), 512))
    given = torch.cat([model.activations(part.tokens, part.attended, hook)[part.kept] for part in parts])
    row = torch.arange(batch)
    for _ in range(steps):
        chosen = torch.randint(len(pairs), (batch,), generator=draw)
        place = pairs.places[chosen, 0]
        wanted = given[chosen.to(given.device)].to(device)

        def replaced(acts: Tensor, hook: Any, wanted: Tensor = wanted, place: Tensor = place) -> Tensor:
            basis, new = torch.linalg.qr(free).Q.T, acts.flatten(2).clone()
            x = new[row, place]
            new[row, place] = x + (wanted - x) @ basis.T @ basis
            return new.view(acts.shape)

        with torch.enable_grad():
            logits = model.bridge.run_with_hooks(
                pairs.base[chosen].to(device), fwd_hooks=[(hook, replaced)], return_type="logits"
            )[:, pairs.position]
            loss = torch.nn.functional.cross_entropy(logits.float(), pairs.answers[chosen, 1].to(device))
            [free.grad] = torch.autograd.grad(loss, [free])
        optimizer.step()
    return torch.linalg.qr(free.detach()).Q.T.contiguous()


def _rows(tokens: Int[Tensor, "rows n_tokens"], places: Int[Tensor, " rows"]) -> TokenRows:
    """Model input of which one position of each row counts."""
    attended = torch.ones_like(tokens, dtype=torch.bool)
    return TokenRows(tokens, attended, torch.arange(tokens.shape[1]) == places[:, None])


def _ahead(logits: Float[Tensor, "pairs d_vocab"], answers: Int[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    """The logit of the source's answer minus that of the base's."""
    base, source = logits.double().gather(1, answers).unbind(1)
    return source - base


def _ratio(part: Float[Tensor, " pairs"], whole: Float[Tensor, " pairs"], draws: int, seed: int) -> Interval:
    """The ratio of the means, with the interval of its bootstrap."""
    rows = torch.randint(len(part), (draws, len(part)), generator=generator("interchange", "bootstrap", seed))
    drawn = part[rows].mean(1) / whole[rows].mean(1)
    low, high = drawn.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).double())
    return Interval(float(part.mean() / whole.mean()), float(low), float(high))

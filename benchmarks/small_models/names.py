"""How the planted indirect object is coded: which name was said once, by layer and by dimension."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.small_models import Models
from benchmarks.small_models.codes import CONFIGS, RANKS, SEEDS, attention_toy, by_rank
from benchmarks.studies import Fact
from sae.analysis.circuits.interchanges import RowPairs, interchange, learned_subspace, pairs_of
from sae.analysis.circuits.token_codes import token_code
from sae.numerics.seeds import generator
from sae.toys.attention.names import Names
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.saved import Toy

RANKS_MOVED = (1, 2, 4, 8, 15)
"""Dimensions of the subspaces that are interchanged at the end; means of 16 names span 15."""


def ioi_codes(models: Models) -> Iterator[Fact]:
    """The toy of two names, one to three layers: what the residual stream at the end and at the last name tells of
    the names, by layer; and what interchanging a subspace there, or at the name said once, does to the answer.
    Subspaces are directions of the means by the name said once and by the one said twice, learned ones, and random
    ones. In pairs of numbers, the share of the difference of logits that moves, and the share of rows that then have
    the other row's answer."""
    config = tomllib.loads((CONFIGS / "names.toml").read_text(encoding="utf-8"))["source"]
    for n_layers in (1, 2, 3):
        for seed in SEEDS:
            toy = attention_toy(models, "names", seed, {**config, "model": {**config["model"], "n_layers": n_layers}})
            about = f"{n_layers} layer{'s' * (n_layers > 1)}, seed {seed}"
            yield from _names(toy, about)
    for seed in SEEDS:
        untrained = Network(AttentionModelConfig(**config["model"]), Names(), generator("untrained", seed))
        toy = Toy(bridged(untrained, "untrained", "cpu"), untrained, Names(), seed, {}, {})
        yield from _names(toy, f"2 layers, untrained, seed {seed}", pairs=False)


def _names(toy: Toy, about: str, pairs: bool = True) -> Iterator[Fact]:
    """The names in the residual stream at the end token, and interchanges of subspaces there."""
    assert isinstance(toy.task, Names)
    task, end = toy.task, toy.task.n_tokens - 1
    fitted, held_out = (task.batch(toy.seed, split, 0, 4000) for split in ("choose", "test"))
    first = task.labels(held_out)["once_first"][:, end] == 1
    with torch.no_grad():
        right = _answered(toy, toy.network(held_out)[:, end], held_out)
    for which, rows in (("first", first), ("second", ~first)):
        yield Fact(f"{about}: answers right, the name said once comes {which}", "", f"{_share(right[rows]):.3f}")
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(toy.model.n_layers)]
    parts = fitted, held_out
    lasts = [_last_name(task, rows) for rows in parts]
    x = [toy.model.activations_at(rows, torch.ones_like(rows).bool(), hooks) for rows in parts]
    labels = [{name: label[:, end] for name, label in task.labels(rows).items()} for rows in parts]
    for at, hook in enumerate(hooks):
        vectors = [of[at][:, end].float() for of in x]
        of_last = [of[at][torch.arange(len(last)), last].float() for of, last in zip(x, lasts, strict=True)]
        place = f"{about}, after layer {at + 1}"
        asked = [("once", RANKS, vectors, "the end"), ("twice", RANKS, vectors, "the end")]
        asked += [("once_first", (1,), vectors, "the end"), ("once", RANKS, of_last, "the last name")]
        for name, ranks, (a, b), where in asked:
            code = token_code((a, labels[0][name]), (b, labels[1][name]), ranks)
            what = f"the name said {name}" if name != "once_first" else "whether the name said once came first"
            title = f"{place}, at {where}: {what}, accuracy by directions (random ones)"
            yield Fact(title, f"chance {code.chance:.2f}", by_rank(code))
        lens = vectors[1] @ toy.network.W_U.detach() + toy.network.b_U.detach()
        title = f"{place}: answers right through the unembedding (logit lens)"
        yield Fact(title, f"chance {1 / task.d_vocab_out:.2f}", f"{_share(_answered(toy, lens, held_out)):.3f}")
        if pairs:
            yield from _interchanged(toy, f"{place}, at the end", hook, parts, RANKS_MOVED)
        if pairs and hook != hooks[-1]:  # after the last layer no other position reaches the end
            for name, place_of in (("the last name", _last_name), ("the name said once", _name_said_once)):
                yield from _interchanged(toy, f"{place}, at {name}", hook, parts, (4, 15), place_of)


def _last_name(task: Names, rows: Int[Tensor, "rows n_tokens"]) -> Int[Tensor, " rows"]:
    """The position of the last name of each row."""
    return torch.where(rows < task.n_names, torch.arange(rows.shape[1]), -1).amax(1)


def _name_said_once(task: Names, rows: Int[Tensor, "rows n_tokens"]) -> Int[Tensor, " rows"]:
    """The position of the name that each row holds once."""
    return (rows == task.answers(rows)[:, -1:]).int().argmax(1)


def _answered(toy: Toy, logits: Float[Tensor, "rows d_vocab"], rows: Int[Tensor, "rows n_tokens"]) -> Tensor:
    """Whether the largest logit at the end is that of the answer."""
    return logits.argmax(1) == toy.task.answers(rows)[:, -1]


def _share(of: Bool[Tensor, " rows"]) -> float:
    return float(of.double().mean())


def _interchanged(
    toy: Toy,
    about: str,
    hook: str,
    parts: tuple[Tensor, Tensor],
    ranks: Sequence[int],
    place_of: Callable[[Any, Tensor], Tensor] | None = None,
) -> Iterator[Fact]:
    """What moves with subspaces of r dimensions at a place of each row, or at the end; fitted on the first part of the
    rows, measured on the other."""
    task, end = toy.task, toy.task.n_tokens - 1
    places = [torch.full((len(rows),), end) if place_of is None else place_of(task, rows) for rows in parts]
    fitted = parts[0]
    x = toy.model.activations(fitted, torch.ones_like(fitted).bool(), hook)[
        torch.arange(len(fitted)), places[0]
    ].float()

    def drawn(rows: Tensor, places: Tensor) -> RowPairs:
        return pairs_of(rows, task.answers(rows)[:, end], end, places=places)

    def of_means(name: str) -> Float[Tensor, "n d"]:
        """Directions of the means by a name, the one of largest variance first."""
        label = task.labels(fitted)[name][:, end]
        means = torch.stack([x[label == value].mean(0) for value in range(task.d_vocab_out)])
        return torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh

    learning, other = (drawn(*part) for part in zip(parts, places, strict=True))
    d = x.shape[1]
    whole = interchange(toy.model, other, hook, torch.eye(d))
    yield Fact(
        f"{about}, all {d} directions: moved, new answers", "", f"{whole.moved.value:.2f} {whole.accuracy.value:.2f}"
    )
    once, twice = of_means("once"), of_means("twice")
    for r in ranks:
        bases = {
            "means by the name said once": once[:r],
            "said twice": twice[:r],
            "learned": learned_subspace(toy.model, learning, hook, r, steps=300, lr=0.1),
            "random": torch.linalg.qr(torch.randn(d, r, generator=generator("interchange", r))).Q.T,
        }
        found = {name: interchange(toy.model, other, hook, basis) for name, basis in bases.items()}
        shown = ", ".join(f"{name} {f.moved.value:.2f} {f.accuracy.value:.2f}" for name, f in found.items())
        yield Fact(f"{about}, {r} direction{'s' * (r > 1)}: moved, new answers", "", shown)

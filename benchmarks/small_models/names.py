"""How the planted indirect object is coded: which name was said once, by layer and by dimension."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
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


def ioi_codes(models: Models) -> Iterator[Fact]:
    """The toy of two names, one to three layers: the names in the residual stream at the end, by layer; and what
    interchanging a subspace does to the answer, for directions of the names' means, learned ones, and random ones."""
    config = tomllib.loads((CONFIGS / "names.toml").read_text(encoding="utf-8"))["source"]
    for n_layers in (1, 2, 3):
        for seed in SEEDS:
            toy = attention_toy(models, "names", seed, {**config, "model": {**config["model"], "n_layers": n_layers}})
            assert isinstance(toy.task, Names)
            about = f"{n_layers} layer{'s' * (n_layers > 1)}, seed {seed}"
            yield Fact(f"{about}: answers right", "", f"{toy.scores['accuracy']:.4f}")
            yield from _names(toy, about)
    untrained = Network(AttentionModelConfig(**config["model"]), Names(), generator("untrained", 0))
    toy = Toy(bridged(untrained, "untrained", "cpu"), untrained, Names(), 0, {}, {})
    yield from _names(toy, "2 layers, untrained", pairs=False)


def _names(toy: Toy, about: str, pairs: bool = True) -> Iterator[Fact]:
    """The names in the residual stream at the end token, and interchanges of subspaces there."""
    task, end = toy.task, toy.task.n_tokens - 1
    fitted, held_out = (task.batch(toy.seed, split, 0, 4000) for split in ("choose", "test"))
    n_layers = toy.model.n_layers
    hooks = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]
    x = {part: toy.model.activations_at(rows, torch.ones_like(rows).bool(), hooks) for part, rows in
         (("fitted", fitted), ("held out", held_out))}  # fmt: skip
    labels = {part: task.labels(rows) for part, rows in (("fitted", fitted), ("held out", held_out))}
    for at, hook in enumerate(hooks[1:], 1):
        vectors = {part: of[at][:, end].float() for part, of in x.items()}
        place = f"{about}, after layer {at}"
        for name in ("once", "twice"):
            code = token_code(*((vectors[part], labels[part][name][:, end]) for part in vectors), RANKS)  # pyright: ignore
            title = f"{place}: the name said {name}, accuracy by directions (random ones)"
            yield Fact(title, f"chance {code.chance:.2f}", by_rank(code))
        code = token_code(*((vectors[part], labels[part]["once_first"][:, end]) for part in vectors), (1,))  # pyright: ignore
        yield Fact(f"{place}: which came first, accuracy by directions (random ones)", "chance .5", by_rank(code))
        right = _lens(toy, vectors["held out"]) == task.answers(held_out)[:, end]
        yield Fact(f"{place}: answers right through the unembedding", "", f"{float(right.float().mean()):.3f}")
        if pairs:
            yield from _interchanged(toy, place, hook, vectors["fitted"], fitted, held_out)


@torch.no_grad()
def _lens(toy: Toy, x: Float[Tensor, "rows d"]) -> Int[Tensor, " rows"]:
    """The answer that the unembedding reads from a layer's residual stream (the logit lens)."""
    return (x @ toy.network.W_U + toy.network.b_U).argmax(1)


def _interchanged(toy: Toy, place: str, hook: str, x: Tensor, fitted: Tensor, held_out: Tensor) -> Iterator[Fact]:
    """What moves with subspaces of r dimensions: of the names' means, learned ones, random ones."""
    task, end = toy.task, toy.task.n_tokens - 1

    def drawn(rows: Tensor) -> RowPairs:
        return pairs_of(rows, task.answers(rows)[:, end], end)

    once = task.labels(fitted)["once"][:, end]
    means = torch.stack([x[once == name].mean(0) for name in range(task.d_vocab_out)])
    of_means = torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh
    learning, other = drawn(fitted), drawn(held_out)
    d = x.shape[1]
    whole = interchange(toy.model, other, hook, torch.eye(d))
    yield Fact(
        f"{place}, all {d} directions: moved, new answers", "", f"{whole.moved.value:.2f}, {whole.accuracy.value:.2f}"
    )
    for r in (1, 2, 4, 8, 15):
        random = torch.linalg.qr(torch.randn(d, r, generator=generator("interchange", r))).Q.T
        bases = {"means": of_means[:r], "learned": learned_subspace(toy.model, learning, hook, r), "random": random}
        found = {name: interchange(toy.model, other, hook, basis) for name, basis in bases.items()}
        shown = ", ".join(f"{name} {f.moved.value:.2f} {f.accuracy.value:.2f}" for name, f in found.items())
        yield Fact(f"{place}, {r} direction{'s' * (r > 1)}: moved, new answers", "", shown)

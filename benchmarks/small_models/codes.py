"""How circuits code tokens: induction in models of text and in the toy, and the planted indirect object."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import TypeAdapter
from torch import Tensor

import sae
from benchmarks.small_models import Models
from benchmarks.studies import Fact
from sae.analysis.circuits.induction import head_scores
from sae.analysis.circuits.interchanges import RowPairs, interchange, learned_subspace, pairs_of
from sae.analysis.circuits.token_codes import TokenCode, token_code
from sae.model.hooked import Model
from sae.numerics.binary_probes import rank_auc
from sae.numerics.seeds import generator
from sae.toys.attention.names import Names
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.saved import AnyTask, Toy, load_toy, train_toy
from sae.toys.attention.training import AttentionTrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "toys"
SEEDS = (0, 1)
TWO_LAYERS: dict[str, Any] = {"n_layers": 2, "mlp_ratio": 0}
"""The form of the models of text: attention only."""
RANKS = (1, 2, 4, 8, 16)
N_COPIED = 500
"""Rows in which a text is repeated."""
FREQUENT = 20
"""Tokens for which the best latent is looked for, the most frequent ones."""


@dataclass(frozen=True, eq=False)
class _Repeated:
    """A model, and rows whose second half may repeat the first."""

    name: str
    model: Model
    repeated: Int[Tensor, "rows n_tokens"]
    """BOS, then twice the same tokens."""
    other: Int[Tensor, "rows n_tokens"]
    """BOS, the tokens of another row, then the same tokens as the second half of `repeated`."""

    @property
    def half(self) -> int:
        """The length of what is repeated."""
        return (self.repeated.shape[1] - 1) // 2

    def losses(self, tokens: Int[Tensor, "rows n_tokens"]) -> Float[Tensor, "rows half"]:
        """The cross-entropy of each token of the second half but the first, in nats."""
        second = slice(1 + self.half, -1)
        found = list[Tensor]()
        for part in tokens.split(64):
            with torch.no_grad():
                logits = self.model.bridge(part, return_type="logits")[:, second]
            targets = part[:, 2 + self.half :]
            found.append(-logits.float().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1))
        return torch.cat(found)


def repeated_text(models: Models) -> Iterator[Fact]:
    """What a verbatim copy earlier in the row saves, in nats per token, next to another text there: two layers of
    attention trained on the text, and the toy of induction."""
    for case in _cases(models):
        after, fresh = case.losses(case.repeated), case.losses(case.other)
        saved = (fresh - after).mean(1)
        error = 1.96 * float(saved.std()) / len(saved) ** 0.5
        yield Fact(
            f"{case.name}: saved by a copy, of the nats without",
            "",
            f"{float(saved.mean()):.3f} ± {error:.3f} of {float(fresh.mean()):.3f}",
        )


def induction_codes(models: Models) -> Iterator[Fact]:
    """Heads of induction in two layers of attention trained on the text, and in the toy: whether there are any, and how
    their outputs code the previous token and the copied one, on rows that repeat a text."""
    for case in _cases(models):
        scores = head_scores(case.model, case.repeated)
        n = case.repeated.shape[1]
        previous, induction = (int(s.argmax()) for s in (scores.previous[0], scores.induction[1]))
        uniform = sum(1 / (i + 1) for i in range(n)) / n
        yield Fact(
            f"{case.name}: attention to the previous token, best head of layer 0",
            f"uniform {uniform:.3f}",
            f"{float(scores.previous[0].max()):.3f}",
        )
        yield Fact(
            f"{case.name}: attention to the token after an earlier occurrence, best head of layer 1",
            f"uniform {uniform:.3f}",
            f"{float(scores.induction[1].max()):.3f}",
        )
        # In the second half, where both are defined: the token before, and the one that follows.
        at = slice(1 + case.half, -1)
        z = [_head(case, layer, head)[:, at] for layer, head in ((0, previous), (1, induction))]
        tokens = case.repeated[:, case.half : -2], case.repeated[:, 2 + case.half :]
        for what, vectors, of in zip(("the previous token", "the copied token"), z, tokens, strict=True):
            yield from _coded(f"{case.name}: {what} in that head", vectors, of)


def ioi_codes(models: Models) -> Iterator[Fact]:
    """The toy of two names, one to three layers: the names in the residual stream at the end, by layer; and what
    interchanging a subspace does to the answer, for directions of the names' means, learned ones, and random ones."""
    config = tomllib.loads((CONFIGS / "names.toml").read_text(encoding="utf-8"))["source"]
    for n_layers in (1, 2, 3):
        for seed in SEEDS:
            toy = _toy(models, "names", seed, {**config, "model": {**config["model"], "n_layers": n_layers}})
            assert isinstance(toy.task, Names)
            about = f"{n_layers} layer{'s' * (n_layers > 1)}, seed {seed}"
            yield Fact(f"{about}: answers right", "", f"{toy.scores['accuracy']:.4f}")
            yield from _names(toy, about)
    untrained = Network(AttentionModelConfig(**config["model"]), Names(), generator("untrained", 0))
    toy = Toy(bridged(untrained, "untrained", "cpu"), untrained, Names(), 0, {}, {})
    yield from _names(toy, "2 layers, untrained", pairs=False)


def _cases(models: Models) -> Iterator[_Repeated]:
    """The models of text, an untrained one, and the toys of induction."""
    for seed in SEEDS:
        trained = models.trained(TWO_LAYERS, seed=seed)
        half = (trained.settings.model.n_ctx - 1) // 2
        tokens = torch.from_numpy(trained.heldout()[: 2 * N_COPIED * half].reshape(2, N_COPIED, half).astype("int64"))
        bos = torch.full((N_COPIED, 1), trained.bos)
        rows = torch.cat([bos, tokens[0], tokens[0]], 1), torch.cat([bos, tokens[1], tokens[0]], 1)
        yield _Repeated(f"text, seed {seed}", trained.model(), *rows)
        if seed == SEEDS[-1]:
            yield _Repeated("text, untrained", trained.untrained(), *rows)
    config = tomllib.loads((CONFIGS / "induction.toml").read_text(encoding="utf-8"))["source"]
    for seed in SEEDS:
        toy = _toy(models, "induction", seed, config)
        assert isinstance(toy.task, Repeats)
        tokens = torch.randint(
            toy.task.vocabulary, (2, N_COPIED, toy.task.longest), generator=generator("copied", seed)
        )
        bos = torch.full((N_COPIED, 1), toy.task.bos)
        rows = torch.cat([bos, tokens[0], tokens[0]], 1), torch.cat([bos, tokens[1], tokens[0]], 1)
        yield _Repeated(f"toy, seed {seed}", toy.model, *rows)


def _toy(models: Models, name: str, seed: int, source: dict[str, Any]) -> Toy:
    """A toy by the settings of its shipped config, from the folder of earlier ones where it is there."""
    model = AttentionModelConfig(**source["model"])
    task = TypeAdapter[Any](AnyTask).validate_python(source["task"])
    training = AttentionTrainingConfig(**source["training"])
    folder = models.out / f"toy-{name}-{model.n_layers}-layers-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    train_toy(folder, task, model, training, seed, lambda done, of, unit: None, "cpu")
    return load_toy(folder)


def _head(case: _Repeated, layer: int, head: int) -> Float[Tensor, "rows n_tokens d_head"]:
    """The output of one head at every position of the repeated rows."""
    parts = list[Tensor]()
    for tokens in case.repeated.split(64):
        attended = torch.ones_like(tokens, dtype=torch.bool)
        [z] = case.model.activations_at(tokens, attended, [f"blocks.{layer}.attn.hook_z"])
        n_heads = case.model.shape(f"blocks.{layer}.attn.hook_z")[0]
        parts.append(z.unflatten(-1, (n_heads, -1))[:, :, head].float())
    return torch.cat(parts)


def _coded(about: str, z: Float[Tensor, "rows n d_head"], tokens: Int[Tensor, "rows n"]) -> Iterator[Fact]:
    """How vectors code tokens; fitted on half of the rows, measured on the others."""
    half = len(z) // 2
    parts = [(x.flatten(0, 1), t.flatten()) for x, t in ((z[:half], tokens[:half]), (z[half:], tokens[half:]))]
    code = token_code(parts[0], parts[1], RANKS)
    yield Fact(
        f"{about}: share of the variance between tokens (permuted)", "", f"{code.share:.3f} ({code.share_permuted:.3f})"
    )
    yield Fact(f"{about}: dimensions of that variance, of {z.shape[2]}", "", f"{code.dimensions:.1f}")
    yield Fact(f"{about}: accuracy by directions (random ones)", f"chance {code.chance:.3f}", _by_rank(code))
    d = sae.fit(
        parts[0][0], kind="topk", n_latents=8 * z.shape[2], k=4, steps=1000, batch_size=512, lr=3e-3, progress=False
    )[0]
    yield Fact(
        f"{about}: AUC of the best latent for a token, of the best neuron",
        "",
        f"{_best_auc(d.encode(parts[0][0]), d.encode(parts[1][0]), parts):.3f}, "
        f"{_best_auc(parts[0][0], parts[1][0], parts):.3f}",
    )


def _by_rank(code: TokenCode) -> str:
    return ", ".join(f"{r}: {a:.2f} ({code.random_accuracy[r]:.2f})" for r, a in code.accuracy.items())


@torch.no_grad()
def _best_auc(fitted: Tensor, held_out: Tensor, parts: list[tuple[Tensor, Tensor]]) -> float:
    """The mean over frequent tokens of the held-out AUC of the unit that is best on the fitted rows, either sign."""
    (_, tokens), (_, tokens_test) = parts
    frequent = tokens.bincount().argsort(descending=True)[:FREQUENT]
    auc = rank_auc(fitted, tokens[:, None] == frequent)
    best = (auc - 0.5).abs().argmax(1)
    test = rank_auc(held_out, tokens_test[:, None] == frequent)[torch.arange(len(frequent)), best]
    sign = torch.where(auc[torch.arange(len(frequent)), best] < 0.5, -1, 1)
    return float((0.5 + sign * (test - 0.5)).nanmean())


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
            yield Fact(title, f"chance {code.chance:.2f}", _by_rank(code))
        code = token_code(*((vectors[part], labels[part]["once_first"][:, end]) for part in vectors), (1,))  # pyright: ignore
        yield Fact(f"{place}: which came first, accuracy by directions (random ones)", "chance .5", _by_rank(code))
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

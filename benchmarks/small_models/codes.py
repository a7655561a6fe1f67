"""How induction codes tokens, in models of text and in the toy."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import sae
from benchmarks.circuits import toy_of_config
from benchmarks.small_models import Models
from benchmarks.studies import Fact
from sae.analysis.circuits.induction import HeadScores, after_earlier, head_scores
from sae.analysis.circuits.token_codes import TokenCode, token_code
from sae.model.hooked import Model
from sae.numerics.binary_probes import best_threshold, f1_score, rank_auc
from sae.numerics.seeds import generator
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.saved import Toy

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
    shuffled: Int[Tensor, "rows n_tokens"]
    """`repeated` with the first half in another order, so that its tokens are there but not what follows each."""

    @classmethod
    def of(cls, name: str, model: Model, tokens: Int[Tensor, "2 rows half"], bos: int) -> _Repeated:
        """Rows of two sets of tokens, of which the first is repeated."""
        this, other = tokens
        order = torch.rand(this.shape, generator=generator("shuffled")).argsort(1)
        start = torch.full((len(this), 1), bos)
        return cls(name, model, *(torch.cat([start, half, this], 1) for half in (this, other, this.gather(1, order))))

    @property
    def half(self) -> int:
        """The length of what is repeated."""
        return (self.repeated.shape[1] - 1) // 2

    def random(self) -> Int[Tensor, "rows n_tokens"]:
        """Repeated sequences of tokens drawn uniformly from those of the rows."""
        known = self.other[:, 1:].unique()
        drawn = known[
            torch.randint(len(known), self.repeated[:, 1 : 1 + self.half].shape, generator=generator("drawn"))
        ]
        return torch.cat([self.repeated[:, :1], drawn, drawn], 1)

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
    """What a verbatim copy earlier in the row saves, in nats per token, next to another text there, and what the same
    tokens in another order save: two layers of attention trained on the text, and the toy of induction."""
    for case in _cases(models):
        fresh = case.losses(case.other)
        for what, tokens in (("a copy", case.repeated), ("its tokens in another order", case.shuffled)):
            saved = (fresh - case.losses(tokens)).mean(1)
            error = 1.96 * float(saved.std()) / len(saved) ** 0.5
            yield Fact(
                f"{case.name}: saved by {what}, of the nats without",
                "",
                f"{float(saved.mean()):.3f} ± {error:.3f} of {float(fresh.mean()):.3f}",
            )


def induction_codes(models: Models) -> Iterator[Fact]:
    """Heads of induction in two layers of attention trained on the text, and in the toy: whether there are any, and how
    their outputs code the previous token and the copied one, on rows that repeat a text. Scores are also those on plain
    text and on repeated random tokens."""
    for case in _cases(models):
        rows = {"repeated": case.repeated, "not repeated": case.other, "random, repeated": case.random()}
        scores = {of: head_scores(case.model, tokens) for of, tokens in rows.items()}
        for of, tokens in rows.items():
            yield from _scores(f"{case.name}, rows {of}", scores[of], tokens)
        best = scores["repeated"]
        previous, induction = (int(s.argmax()) for s in (best.previous[0], best.induction[1]))
        # In the second half, where both are defined: the token before, and the one that follows.
        at = slice(1 + case.half, -1)
        z = [_head(case, layer, head)[:, at] for layer, head in ((0, previous), (1, induction))]
        tokens = case.repeated[:, case.half : -2], case.repeated[:, 2 + case.half :]
        for what, vectors, of in zip(("the previous token", "the copied token"), z, tokens, strict=True):
            yield from _coded(f"{case.name}: {what} in that head", vectors, of)


def _scores(about: str, scores: HeadScores, tokens: Int[Tensor, "rows n_tokens"]) -> Iterator[Fact]:
    """The largest scores of heads, next to uniform attention."""
    n = tokens.shape[1]
    uniform = sum(1 / (i + 1) for i in range(1, n)) / (n - 1)
    yield Fact(
        f"{about}: attention to the previous token, best head of layer 0",
        f"uniform {uniform:.3f}",
        f"{float(scores.previous[0].max()):.3f}",
    )
    after = after_earlier(tokens)
    share = after.sum(-1) / torch.arange(1, n + 1)
    yield Fact(
        f"{about}: attention to the tokens after earlier occurrences, best head of layer 1",
        f"uniform {float(share[after.any(-1)].mean()):.3f}",
        f"{float(scores.induction[1].max()):.3f}",
    )


def _cases(models: Models) -> Iterator[_Repeated]:
    """The models of text, an untrained one, and the toys of induction."""
    for seed in SEEDS:
        trained = models.trained(TWO_LAYERS, seed=seed)
        half = (trained.settings.model.n_ctx - 1) // 2
        tokens = torch.from_numpy(trained.heldout()[: 2 * N_COPIED * half].reshape(2, N_COPIED, half).astype("int64"))
        yield _Repeated.of(f"text, seed {seed}", trained.model(), tokens, trained.bos)
        if seed == SEEDS[-1]:
            yield _Repeated.of("text, untrained", trained.untrained_model(), tokens, trained.bos)
    config = tomllib.loads((CONFIGS / "induction.toml").read_text(encoding="utf-8"))["source"]
    for seed in SEEDS:
        toy = attention_toy(models, "induction", seed, config)
        assert isinstance(toy.task, Repeats)
        tokens = torch.randint(
            toy.task.vocabulary, (2, N_COPIED, toy.task.longest), generator=generator("copied", seed)
        )
        yield _Repeated.of(f"toy, seed {seed}", toy.model, tokens, toy.task.bos)


def attention_toy(models: Models, name: str, seed: int, source: dict[str, Any]) -> Toy:
    """A toy by the settings of its shipped config, from the folder of earlier ones where it is there."""
    settings = {part: source[part] for part in ("task", "model", "training")}
    return toy_of_config(models.folder(f"toy-{name}", [settings, seed]), source, seed)


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
    yield Fact(
        f"{about}: dimensions of that variance, of {z.shape[2]} (permuted)",
        "",
        f"{code.dimensions:.1f} ({code.dimensions_permuted:.1f})",
    )
    yield Fact(f"{about}: accuracy by directions (random ones)", f"chance {code.chance:.3f}", by_rank(code))
    d = sae.fit(
        parts[0][0], kind="topk", n_latents=8 * z.shape[2], k=4, steps=1000, batch_size=512, lr=3e-3, progress=False
    )[0]
    (x, token), (x_test, token_test) = parts
    frequent = token.bincount().argsort(descending=True)[:FREQUENT]
    positive, positive_test = token[:, None] == frequent, token_test[:, None] == frequent
    random = torch.randn(z.shape[2], d.n_latents, generator=generator("random units"))
    units = {
        "latents": (d.encode(x), d.encode(x_test)),
        "neurons": (x, x_test),
        "random directions": (x @ random, x_test @ random),
    }
    best = {name: _best_unit(fit, test, positive, positive_test) for name, (fit, test) in units.items()}
    shown = ", ".join(f"{name} {auc:.3f} {f1:.3f}" for name, (auc, f1) in best.items())
    always = 2 * positive_test.double().mean(0) / (1 + positive_test.double().mean(0))
    title = f"{about}: AUC and F1 of the best of {d.n_latents} latents for a token, of {z.shape[2]} neurons"
    yield Fact(f"{title}, of {d.n_latents} random directions", f"chance .5 and {float(always.mean()):.3f}", shown)


def by_rank(code: TokenCode) -> str:
    """Accuracies by number of directions, and in random ones."""
    return ", ".join(f"{r}: {a:.2f} ({code.random_accuracy[r]:.2f})" for r, a in code.accuracy.items())


@torch.no_grad()
def _best_unit(
    fitted: Float[Tensor, "rows n"],
    held_out: Float[Tensor, "test_rows n"],
    positive: Bool[Tensor, "rows n_tokens"],
    positive_test: Bool[Tensor, "test_rows n_tokens"],
) -> tuple[float, float]:
    """Held-out AUC and F1 of the unit of largest AUC on the fitted rows, with either sign and the threshold of the
    largest F1 there; means over tokens."""
    auc = rank_auc(fitted, positive)
    best = (auc - 0.5).abs().argmax(1)
    aucs, f1s = list[float](), list[float]()
    for token, unit in enumerate(best.tolist()):
        sign = -1 if auc[token, unit] < 0.5 else 1
        a, b = sign * fitted[:, unit], sign * held_out[:, unit]
        aucs.append(float(rank_auc(b[:, None], positive_test[:, token, None])))
        f1s.append(f1_score(b >= best_threshold(a, positive[:, token]), positive_test[:, token]))
    return sum(aucs) / len(aucs), sum(f1s) / len(f1s)

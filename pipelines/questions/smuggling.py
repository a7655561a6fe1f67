"""How much of what an MLP writes comes from small activations, and how much of that a LayerNorm behind SoLU adds.

The measure and its control: :mod:`sae.analysis.circuits.smuggling`. Neurons are weighted by what they write to the
logits: the
length of their row of W_out W_U, logits centred. A model without a norm there has no rise; the share of its small
activations stands for comparison.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, QuestionConfig, QuestionContext
from sae.analysis.circuits.smuggling import smuggling
from sae.model.hooked import Model


class Config(QuestionConfig):
    """Activations below a share `small` of their neuron's largest, on `n_rows` rows (they lie in memory)."""

    kind: Literal["smuggling"] = "smuggling"
    n_rows: int = Field(default=10_000, gt=1)
    small: float = Field(default=0.1, gt=0, lt=1)
    layer: int | None = Field(default=None, ge=0)

    def answer(self, asked: QuestionContext) -> Answer:
        model, layer = asked.model, asked.layer if self.layer is None else self.layer
        post, norm = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.mlp.ln.hook_in"
        model.check_hook(post)
        hooks = [norm, post] if norm in model.hooks else [post]
        found = _read(asked, hooks, self.n_rows)
        s = smuggling(found[0], found[-1], _writes(model, layer), self.small, seed=self.seed)
        rows = [
            ["before the norm", s.before, None],
            ["behind the norm", s.after, s.chance],
            ["added by the norm", s.rise, None],
        ]
        title = f"share of activations below {self.small:g} of their neuron's largest in what is written"
        told = "LayerNorm" if len(hooks) > 1 else "none: before and behind are the same"
        facts = {"layer": layer, "norm behind the activation": told, "rows": len(found[0]), "small entries": s.n_small}
        return Answer([AnswerTable(title, ("", "share", "by chance"), rows)], facts)


def _read(asked: QuestionContext, hooks: list[str], n: int) -> list[Tensor]:
    """Activations of held-out text at the hook points."""
    text, parts = asked.activations.tokens("test"), [list[Tensor]() for _ in hooks]
    at_once = asked.activations.config.rows_at_once
    for start in range(0, len(text), at_once):
        some = text[start : start + at_once]
        kept = some.kept.to(asked.model.device)
        for part, acts in zip(parts, asked.model.activations_at(some.tokens, some.attended, hooks), strict=True):
            part.append(acts[kept].float())
        if sum(map(len, parts[0])) >= n:
            break
    return [torch.cat(part)[:n] for part in parts]


def _writes(model: Model, layer: int) -> Tensor:
    """How far each neuron of a layer moves the centred logits, by its weights alone."""
    with torch.no_grad():
        written = model.bridge.W_out[layer].float() @ model.bridge.W_U.float()
        return (written - written.mean(1, keepdim=True)).norm(dim=1)

"""How much of an MLP's output comes from small activations, and how much of that the LayerNorm after SoLU adds.

The measure and its control are those of :mod:`sae.analysis.circuits.smuggling`. Neurons are weighted by the
length of their direct effect on the centred logits, see :mod:`sae.analysis.latents.logit_effects`. In a model without
that norm the increase is 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, QuestionConfig, QuestionContext
from sae.analysis.circuits.smuggling import smuggling
from sae.analysis.latents.logit_effects import direct_effects
from sae.model.parts import neuron_weights
from sae.registry import UserError


class Config(QuestionConfig):
    """Settings of the question `smuggling`."""

    kind: Literal["smuggling"] = "smuggling"
    n_rows: int = Field(default=10_000, gt=1)
    """Number of held-out samples; they are held in memory."""
    small: float = Field(default=0.1, gt=0, lt=1)
    """Activations below this share of their neuron's largest are small."""
    layer: int | None = Field(default=None, ge=0)
    """The layer; by default that of the source's hook point."""

    def answer(self, context: QuestionContext) -> Answer:
        model, layer = context.model, context.layer if self.layer is None else self.layer
        post, norm = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.mlp.ln.hook_in"
        model.check_logits()
        W_out = neuron_weights(model, layer)["W_out"]
        model.check_hook(post)
        hooks = [norm, post] if norm in model.hooks else [post]
        lengths = _effect_lengths(context, W_out, f"blocks.{layer}.mlp.hook_out")
        acts = _activations(context, hooks, self.n_rows)
        s = smuggling(acts[0], acts[-1], lengths, self.small, seed=self.seed)
        rows = [
            ["before the norm", s.before, None],
            ["after the norm", s.after, s.chance],
            ["added by the norm", s.rise, None],
        ]
        title = f"share of the output from activations below {self.small:g} of their neuron's largest"
        norm_name = "LayerNorm" if len(hooks) > 1 else "none, so before and after are the same"
        facts = {
            "layer": layer,
            "norm behind the activation": norm_name,
            "rows": len(acts[0]),
            "small entries": s.n_small,
        }
        return Answer([AnswerTable(title, ("", "share", "by chance"), rows)], facts)


def _activations(context: QuestionContext, hooks: list[str], n: int) -> list[Tensor]:
    """Activations of held-out text at the hook points."""
    text, parts = context.activations.tokens("test"), [list[Tensor]() for _ in hooks]
    at_once = context.activations.config.rows_at_once
    for start in range(0, len(text), at_once):
        batch = text[start : start + at_once]
        kept = batch.kept.to(context.model.device)
        for part, acts in zip(parts, context.model.activations_at(batch.tokens, batch.attended, hooks), strict=True):
            part.append(acts[kept].float())
        if sum(map(len, parts[0])) >= n:
            break
    return [torch.cat(part)[:n] for part in parts]


def _effect_lengths(context: QuestionContext, W_out: Tensor, hook: str) -> Tensor:
    """The length of each neuron's direct effect on the centred logits, per unit of activation."""
    found = direct_effects(context.model, hook, W_out.shape[1], context.activations.tokens("test"))
    if isinstance(found, str):
        raise UserError(
            f"model = {context.model.name!r}: its neurons have no weights in the output, because {found}; choose "
            "another layer or model"
        )
    return torch.cat([effect.norm(dim=1) for effect in found(W_out.float())])

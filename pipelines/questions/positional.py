"""Where the residual stream keeps the position, and which heads and MLPs write there.

The measures and their controls: :mod:`sae.analysis.circuits.positional`. The model is run over the text (training
rows, since no
dictionary is asked); what a component writes is read where it is added to the stream, a head's as z_h W_O,h.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.circuits.heads import n_heads, z_of
from sae.analysis.circuits.positional import Subspace, components, subspace, write_shares
from sae.analysis.geometry.moments import Moments
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.registry import UserError

_PARTS = 5


class Config(QuestionConfig):
    """`n_rows` rows of tokens; the `components` leading ones; the subspace that keeps a share `kept` of the variance
    between positions, or of a given `rank`. The stream is read at the source's hook point."""

    kind: Literal["positional"] = "positional"
    n_rows: int = Field(default=1000, ge=2 * _PARTS)
    components: int = Field(default=12, gt=0)
    kept: float = Field(default=0.9, gt=0, lt=1)
    rank: int | None = Field(default=None, gt=0)
    draws: int = Field(default=200, gt=1)

    def answer(self, asked: QuestionContext) -> Answer:
        model, text = asked.model, asked.activations.tokens("train")[: self.n_rows]
        if model.width(asked.hook) != model.d_model or "resid" not in asked.hook:
            raise UserError(f"source.hook = {asked.hook!r}: give one of the residual stream, blocks.N.hook_resid_post")
        if len(text) < 2 * _PARTS:
            raise UserError(f"source: {len(text)} rows of tokens are too few; give more text")
        stream, permuted, outputs = self._gathered(asked, model, text)
        found = subspace(stream, permuted, self.kept, self.rank)
        r2: list[list[AnswerValue]] = [
            [i, c.variance, c.r2, c.linear, c.permuted]
            for i, c in enumerate(components(stream, permuted, self.components), 1)
        ]
        told = ("component", "share of variance", "R² on position", "linear R²", "positions permuted")
        tables = [AnswerTable("principal components of the stream", told, r2)]
        if found.rank:
            tables.append(self._writes(found, stream, outputs))
        facts = {
            "hook": asked.hook,
            "tokens": int(stream.count.sum()),
            "share of all variance that is between positions": found.between,
            "directions of the subspace": found.rank,
        }
        return Answer(tables, facts, {"basis": found.basis.tolist()})

    def _writes(self, found: Subspace, stream: Moments, outputs: dict[str, list[Tensor]]) -> AnswerTable:
        shares: list[list[AnswerValue]] = [
            [w.name, w.share, w.random, w.matched, "yes" if w.is_above else ""]
            for w in sorted(write_shares(found, stream, outputs, self.draws, self.seed), key=lambda w: -w.share.value)
        ]
        named = ("written by", "inside the subspace", "random subspace", "of the stream's covariance", "above both")
        return AnswerTable("share of what is written that is inside the positional subspace", named, shares)

    def _gathered(
        self, asked: QuestionContext, model: Model, text: TokenRows
    ) -> tuple[Moments, Moments, dict[str, list[Tensor]]]:
        """Moments of the stream by position, the same with positions permuted, and the covariances of what components
        write, part by part."""
        draw = generator("positions", self.seed)
        length, at_once = text.tokens.shape[1], asked.activations.config.rows_at_once
        stream, permuted = (Moments(model.d_model, length, _PARTS) for _ in range(2))
        hooks = _hooks(model, asked.hook)
        parts = {hook: _parts_of(model, hook) for hook in hooks}
        gathered = {hook: [Moments(model.width(hook) // n, 1, _PARTS) for _ in range(n)] for hook, n in parts.items()}
        for start in range(0, len(text), at_once):
            some = text[start : start + at_once]
            kept = some.kept.clone()
            kept[:, 0] = False
            row, position = kept.nonzero(as_tuple=True)
            part = (row + start) % _PARTS
            acts = model.activations_at(some.tokens, some.attended, [*hooks, asked.hook])
            *of_hooks, resid = (a[kept.to(a.device)].float() for a in acts)
            stream.add(resid, part, position)
            permuted.add(resid, part, position[torch.randperm(len(position), generator=draw)])
            for hook, values in zip(hooks, of_hooks, strict=True):
                for moments, own in zip(gathered[hook], values.chunk(parts[hook], dim=1), strict=True):
                    moments.add(own, part)
        return stream, permuted, dict(_covariances(model, gathered))


def _hooks(model: Model, hook: str) -> list[str]:
    """What writes into the stream up to a hook point: the token embedding, and every layer's heads and MLP. (A table of
    positions is inside by definition.)"""
    found = re.match(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)$", hook)
    layer, where = (int(found[1]), found[2]) if found else (model.n_layers - 1, "post")
    hooks = ["hook_embed"]
    for n in range(layer + 1):
        if n < layer or where != "pre":
            hooks.append(z_of(n))
        if (n < layer or where == "post") and f"blocks.{n}.hook_mlp_out" in model.hooks:
            hooks.append(f"blocks.{n}.hook_mlp_out")
    return hooks


def _parts_of(model: Model, hook: str) -> int:
    return n_heads(model) if hook.endswith("hook_z") else 1


def _covariances(model: Model, gathered: dict[str, list[Moments]]) -> Iterator[tuple[str, list[Tensor]]]:
    for hook, every in gathered.items():
        for head, moments in enumerate(every):
            found = [moments.covariance(part) for part in range(_PARTS)]
            if hook.endswith("hook_z"):
                layer = int(hook.split(".")[1])
                W_O = model.bridge.W_O[layer, head].detach().double().cpu()
                yield f"head {layer}.{head}", [W_O.T @ c @ W_O for c in found]
            else:
                yield hook.replace("blocks.", "").replace(".hook_mlp_out", " MLP").replace("hook_", ""), found

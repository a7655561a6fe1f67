"""Where the residual stream stores the position, and which heads and MLPs write there.

The measures and their controls are those of :mod:`sae.analysis.circuits.positional`. The model runs over the training
text, since no dictionary is involved. The output of a component is what it adds to the stream, see
:mod:`sae.analysis.circuits.writers`; in a model without such components, the answer says so and has no table of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.question import Answer, AnswerTable, AnswerValue, QuestionConfig, QuestionContext
from sae.analysis.circuits.positional import Subspace, components, subspace, write_shares
from sae.analysis.circuits.writers import Writer, writers
from sae.analysis.geometry.moments import Moments
from sae.model.hooked import Model
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.registry import UserError

_PARTS = 5


class Config(QuestionConfig):
    """Settings of the question `positional`, which concerns the stream at the source's hook point."""

    kind: Literal["positional"] = "positional"
    n_rows: int = Field(default=1000, ge=2 * _PARTS)
    """Number of rows of tokens."""
    components: int = Field(default=12, gt=0)
    """Number of principal components in the table."""
    kept: float = Field(default=0.9, gt=0, lt=1)
    """Share of the variance between positions that the positional subspace has."""
    rank: int | None = Field(default=None, gt=0)
    """Rank of the positional subspace, in place of `kept`."""
    draws: int = Field(default=200, gt=1)
    """Number of random subspaces of each control."""

    def answer(self, context: QuestionContext) -> Answer:
        model, text = context.model, context.activations.tokens("train")[: self.n_rows]
        if model.width(context.hook) != model.d_model or "resid" not in context.hook:
            raise UserError(
                f"source.hook = {context.hook!r}: not a hook point of the residual stream; give "
                "blocks.N.hook_resid_post"
            )
        if len(text) < 2 * _PARTS:
            raise UserError(
                f"source: {len(text)} rows of tokens, {2 * _PARTS} are needed; give more text or a shorter context"
            )
        writing = writers(model, context.hook, text)
        named = [] if isinstance(writing, str) else writing
        stream, permuted, outputs = self._gathered(context, model, text, named)
        positional = subspace(stream, permuted, self.kept, self.rank)
        r2: list[list[AnswerValue]] = [
            [i, c.variance, c.r2, c.linear, c.permuted]
            for i, c in enumerate(components(stream, permuted, self.components), 1)
        ]
        columns = ("component", "share of variance", "R² on position", "linear R²", "permuted positions")
        tables = [AnswerTable("principal components of the residual stream", columns, r2)]
        if positional.rank and named:
            tables.append(self._writes(positional, stream, outputs))
        facts: dict[str, AnswerValue] = {
            "hook": context.hook,
            "tokens": int(stream.count.sum()),
            "share of all variance that is between positions": positional.between,
            "directions of the subspace": positional.rank,
        }
        if isinstance(writing, str):
            facts["components that write there"] = f"not shown: {writing}"
        return Answer(tables, facts, {"basis": positional.basis.tolist()})

    def _writes(self, positional: Subspace, stream: Moments, outputs: dict[str, list[Tensor]]) -> AnswerTable:
        shares: list[list[AnswerValue]] = [
            [w.name, w.share, w.random, w.matched, "yes" if w.is_above else ""]
            for w in sorted(
                write_shares(positional, stream, outputs, self.draws, self.seed), key=lambda w: -w.share.value
            )
        ]
        columns = (
            "component",
            "inside the subspace",
            "random subspace",
            "random, covariance of the stream",
            "above both",
        )
        return AnswerTable("share of each component's output inside the positional subspace", columns, shares)

    def _gathered(
        self, context: QuestionContext, model: Model, text: TokenRows, writing: Sequence[Writer]
    ) -> tuple[Moments, Moments, dict[str, list[Tensor]]]:
        """Moments of the stream by position, the same with permuted positions, and the covariance of each component's
        output in each part of the text."""
        draw = generator("positions", self.seed)
        length, at_once = text.tokens.shape[1], context.activations.config.rows_at_once
        stream, permuted = (Moments(model.d_model, length, _PARTS) for _ in range(2))
        hooks = list(dict.fromkeys(writer.hook for writer in writing))
        widths = [model.d_model if writer.W is None else len(writer.W) for writer in writing]
        gathered = [Moments(width, 1, _PARTS) for width in widths]
        for start in range(0, len(text), at_once):
            batch = text[start : start + at_once]
            counted = batch.kept.clone()
            counted[:, 0] = False
            row, position = counted.nonzero(as_tuple=True)
            part = (row + start) % _PARTS
            acts = model.activations_at(batch.tokens, batch.attended, [*hooks, context.hook])
            *of_hooks, resid = (a[counted.to(a.device)].float() for a in acts)
            stream.add(resid, part, position)
            permuted.add(resid, part, position[torch.randperm(len(position), generator=draw)])
            by_hook = dict(zip(hooks, of_hooks, strict=True))
            for writer, moments in zip(writing, gathered, strict=True):
                moments.add(writer.selected(by_hook[writer.hook]), part)
        return stream, permuted, {w.name: _covariances(w, m) for w, m in zip(writing, gathered, strict=True)}


def _covariances(writer: Writer, moments: Moments) -> list[Tensor]:
    """The covariance of a component's output in each part of the text."""
    covariances = [moments.covariance(part) for part in range(_PARTS)]
    if writer.W is None:
        return covariances
    W = writer.W.double().cpu()
    return [W.T @ c @ W for c in covariances]

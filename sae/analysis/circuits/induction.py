"""Heads of an induction circuit, by where they attend in rows whose answer stands after an earlier occurrence.

    ... A B ... A -> B

A previous-token head attends from every position to the one before it; an induction head attends from the second A to
B, the position after the first A (Elhage et al. 2021; Olsson et al. 2022). Scores are mean attention, so that a head
that attends uniformly over n tokens has 1 / n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.model.hooked import Model
from sae.model.parts import layers_with_heads


class HeadScores(NamedTuple):
    """Mean attention of every head, ``[n_layers, n_heads]``."""

    previous: Float[Tensor, "n_layers n_heads"]
    """To the token before, over all positions but the first."""
    induction: Float[Tensor, "n_layers n_heads"]
    """To the positions after earlier occurrences of the current token, over the positions that have one."""


def successors(tokens: Sequence[int], position: int) -> list[int]:
    """The positions after earlier occurrences of the token at a position."""
    return [i + 1 for i in range(position) if tokens[i] == tokens[position]]


def after_earlier(tokens: Int[Tensor, "rows n_tokens"]) -> Bool[Tensor, "rows n_queries n_keys"]:
    """Whether each key stands after an earlier occurrence of the query's token, and not after the query: the positions
    of :func:`successors`."""
    same = tokens[:, :, None] == tokens[:, None, :]
    return torch.nn.functional.pad(same[:, :, :-1], (1, 0)).tril()


@torch.no_grad()
def head_scores(model: Model, tokens: Int[Tensor, "rows n_tokens"]) -> HeadScores:
    """The scores of every head on rows of tokens without padding."""
    layers, patterns = layers_with_heads(model), dict[int, Tensor]()

    def keep(layer: int) -> Any:
        def hook(acts: Tensor, hook: Any) -> None:
            patterns[layer] = acts.float()

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_pattern", keep(layer)) for layer in layers]
    with model.bridge.hooks(fwd_hooks=hooks):
        model.bridge(tokens.to(model.device), return_type="logits")
    after = after_earlier(tokens)
    has = after.any(-1)
    previous, induction = list[Tensor](), list[Tensor]()
    for layer in layers:
        pattern = patterns[layer].cpu()
        previous.append(pattern.diagonal(-1, dim1=2, dim2=3).mean((0, 2)))
        induction.append((pattern * after[:, None]).sum(-1).transpose(0, 1)[:, has].mean(1))
    return HeadScores(torch.stack(previous), torch.stack(induction))

"""An attribution graph: nodes, direct effects between them, and the quantity that they add up to.

A node is one latent at one position at one place, what the dictionary leaves there (an error node per place and
position), or the input of the first block at one position. See :mod:`sae.analysis.graphs.edges` for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.registry import UserError

NodeKind = Literal["input", "latent", "error", "target"]
NO_LATENT = -1
"""The latent of a node that is none."""


@dataclass(frozen=True)
class LogitTarget:
    """A logit at one position, or its difference from another logit or from the mean of all."""

    position: int
    """The position, counted from 0, or from the end where it is negative."""
    token: int
    """The token whose logit it is."""
    against: int | Literal["mean"] | None = None
    """The token whose logit is subtracted; ``"mean"``: the mean of all logits; None: nothing."""

    def weights(self, d_vocab: int) -> Float[Tensor, " d_vocab"]:
        """The weight of every logit, in float64. Raises `UserError` for a token that does not exist."""
        for token in (self.token, self.against):
            if isinstance(token, int) and not 0 <= token < d_vocab:
                raise UserError(f"token = {token}: the model has {d_vocab} logits; give 0 to {d_vocab - 1}")
        w = torch.zeros(d_vocab, dtype=torch.float64)
        w[self.token] += 1
        if self.against == "mean":
            w -= 1 / d_vocab
        elif self.against is not None:
            w[self.against] -= 1
        return w


@dataclass(frozen=True)
class LatentTarget:
    """The pre-activation of a latent that is active at one position."""

    place: str
    """The place of its dictionary."""
    position: int
    """The position, counted from 0, or from the end where it is negative."""
    latent: int
    """Its number."""


Target = LogitTarget | LatentTarget


class GraphNode(NamedTuple):
    """A node of a graph."""

    kind: NodeKind
    """What it is."""
    place: str
    """Its place; empty for inputs and for a target of logits."""
    position: int
    """Its position in the row of tokens."""
    latent: int
    """Its latent; :data:`NO_LATENT` where it is none."""
    value: float
    """The code of a latent, the norm of an input or an error, the value of the target."""


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """All nodes of a prompt, and the direct effects on those of them that were followed.

    Nodes are in the order of the forward pass, the target last: an edge never leads back. Edges lead to the target and
    to latents; inputs and errors have none. Of latents that were not followed (see `max_nodes` of
    :func:`~sae.analysis.graphs.edges.attribution_graph`), the incoming edges are not known.
    """

    tokens: tuple[int, ...]
    """The row of tokens."""
    places: tuple[str, ...]
    """The places in the order of the forward pass."""
    target: Target
    """The target."""
    nodes: tuple[GraphNode, ...]
    """The nodes."""
    readers: Int[Tensor, " n_readers"]
    """The nodes whose incoming edges are known, in the order of the forward pass; the target is the last."""
    weights: Float[Tensor, "n_readers n_nodes"]
    """The direct effect of every node on each reader's pre-activation, or on the target's value."""
    bias: Float[Tensor, " n_readers"]
    """The part of each reader's value that no node brings: its value with all nodes at zero."""
    value: Float[Tensor, " n_readers"]
    """The pre-activation of each reader, which for an active latent is its code, and the target's value."""

    @property
    def target_node(self) -> int:
        """The number of the target's node."""
        return len(self.nodes) - 1

    @property
    def remainder(self) -> Float[Tensor, " n_readers"]:
        """``value - bias - sum of the incoming edges``: zero but for rounding where the model between two places is
        linear, or the gradient is integrated in enough steps."""
        return self.value - self.bias - self.weights.sum(1)

    @cached_property
    def reader_of(self) -> dict[int, int]:
        """The row of `weights` of each node that is a reader."""
        return {node: row for row, node in enumerate(self.readers.tolist())}

    def at(self, kind: NodeKind, place: str = "", position: int | None = None) -> list[int]:
        """The nodes of a kind at a place; at one position only where it is given."""
        return [
            i
            for i, node in enumerate(self.nodes)
            if node.kind == kind and node.place == place and position in (None, node.position)
        ]

    def index(self, kind: NodeKind, place: str, position: int, latent: int = NO_LATENT) -> int:
        """The number of a node. Raises `UserError` where there is none, such as for a latent that is not active."""
        for i, node in enumerate(self.nodes):
            if node[:4] == (kind, place, position, latent):
                return i
        raise UserError(f"node: no {kind} {latent} at {place!r}, position {position}; an active latent is a node")


def check_position(position: int, n_tokens: int) -> int:
    """The position counted from 0. Raises `UserError` where the row is shorter."""
    if not -n_tokens <= position < n_tokens:
        raise UserError(f"position = {position}: the row has {n_tokens} tokens; give 0 to {n_tokens - 1}")
    return position % n_tokens


def check_places(places: Sequence[str]) -> None:
    """Raises `UserError` where there are none."""
    if not places:
        raise UserError("places: there is none; give a dictionary at one hook point or more")

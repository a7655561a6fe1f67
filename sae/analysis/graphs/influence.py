"""How much each node of an attribution graph matters for its target, and what is left when little is kept.

With ``A_ab = |w_ab| / sum_c |w_cb|``, the share of node b's incoming edges that comes from a, the influence of a on the
target is ``B_a,target`` with ``B = (I - A)^-1 - I``: the sum over all paths of the products of shares (Ameisen et al.
2025).
The influences of inputs and errors, which have no incoming edges, and of latents that were not followed add up to 1.
The signed counterpart,

    T_a = sum_b (w_ab / p_b) T_b,    T_target = p_target,

is the total effect: what a brings to the target on all paths, as biases do too. The flow of an edge is its part of
either, ``A_ab`` times the influence of b, or ``w_ab / p_b`` times T_b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.graphs.graph import AttributionGraph
from sae.registry import UserError

Ranking = Literal["influence", "effect"]


def influences_of(
    readers: Int[Tensor, " n_readers"], weights: Float[Tensor, "n_readers n_nodes"]
) -> Float[Tensor, " n_nodes"]:
    """The influence of every node on the last reader, whose own is 1."""
    return _backward(readers, _shares(weights), 1.0)


def influences(graph: AttributionGraph) -> Float[Tensor, " n_nodes"]:
    """The influence of every node on the target, whose own is 1."""
    return influences_of(graph.readers, graph.weights)


def total_effects(graph: AttributionGraph) -> Float[Tensor, " n_nodes"]:
    """The total effect T of every node on the target, in units of the target; those of inputs, errors and biases add up
    to the target's value where nothing remains (:attr:`AttributionGraph.remainder`)."""
    return _backward(graph.readers, _signed_shares(graph), float(graph.value[-1]))


def flows(graph: AttributionGraph, measure: Ranking = "influence") -> Float[Tensor, "n_readers n_nodes"]:
    """The flow of every edge: its part of the influence, or of the total effect, of the node that it leads to."""
    if measure == "influence":
        return _shares(graph.weights) * influences(graph)[graph.readers, None]
    return _signed_shares(graph) * total_effects(graph)[graph.readers, None]


def _shares(weights: Tensor) -> Tensor:
    sizes = weights.abs()
    return sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)


def _signed_shares(graph: AttributionGraph) -> Tensor:
    return graph.weights / torch.where(graph.value == 0, 1, graph.value)[:, None]


def _backward(readers: Tensor, shares: Tensor, at_target: float) -> Tensor:
    """A row of ``(I - A)^-1``: as no edge leads back, one pass from the target to the first nodes solves it."""
    total = torch.zeros(shares.shape[1], dtype=shares.dtype)
    total[readers[-1]] = at_target
    for row in range(len(readers) - 1, -1, -1):
        total += total[readers[row]] * shares[row]
    return total


@dataclass(frozen=True, eq=False)
class PrunedGraph:
    """The part of a graph that is kept."""

    graph: AttributionGraph
    """The whole graph."""
    measure: Ranking
    """What nodes and edges are ranked by."""
    score: Float[Tensor, " n_nodes"]
    """The influence, or the total effect, of every node."""
    flow: Float[Tensor, "n_readers n_nodes"]
    """The flow of every edge."""
    kept: Bool[Tensor, " n_nodes"]
    """The nodes that are kept, the target among them."""
    kept_edges: Bool[Tensor, "n_readers n_nodes"]
    """The edges that are kept; both of their nodes are."""

    @property
    def node_share(self) -> float:
        """The share of all nodes' influence, but the target's, that kept nodes have."""
        return _share_of(self.score[:-1].abs(), self.kept[:-1])

    @property
    def edge_share(self) -> float:
        """The share of all edges' flow that kept edges have."""
        return _share_of(self.flow.abs(), self.kept_edges)

    @property
    def n_unfollowed(self) -> int:
        """The number of latents with influence whose incoming edges are not known, because there were too many."""
        followed = set(self.graph.readers.tolist())
        latents = (i for i, node in enumerate(self.graph.nodes) if node.kind == "latent" and i not in followed)
        return sum(float(self.score[i]) != 0 for i in latents)

    def share_of(self, kind: str) -> float:
        """The share of the influence at the ends of all paths (inputs, errors, and latents that were not followed) that
        ends at nodes of a kind in the whole graph; NaN for total effects, which have signs."""
        if self.measure == "effect":
            return float("nan")
        followed = set(self.graph.readers.tolist())
        at = [i for i, node in enumerate(self.graph.nodes) if node.kind == kind and i not in followed]
        return float(self.score[at].sum())


def prune(
    graph: AttributionGraph, nodes: float = 0.8, edges: float = 0.98, measure: Ranking = "influence"
) -> PrunedGraph:
    """Keeps the nodes of the most influence that have a share `nodes` of all of it, then the edges between them that
    have a share `edges` of those edges' flow; latents without an edge to the target are dropped, and so are
    latents and errors without any.

    Inputs and errors are ranked among all nodes. Raises `UserError` for shares that are not above 0 and at most 1.
    """
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 < share <= 1:
            raise UserError(f"{name} = {share}: the share of the influence that is kept; give more than 0, at most 1")
    score = influences(graph) if measure == "influence" else total_effects(graph)
    flow = flows(graph, measure)
    sizes = score.abs().clone()
    sizes[-1] = 0
    kept = _largest(sizes, nodes)
    kept[-1] = True
    between = flow.abs() * kept[None, :] * kept[graph.readers][:, None]
    kept_edges = _largest(between.flatten(), edges).view_as(between)
    # From the target back: a node stays where an edge leads on to one that stays.
    reached = torch.zeros_like(kept)
    reached[-1] = True
    for row in range(len(graph.readers) - 1, -1, -1):
        if reached[graph.readers[row]]:
            reached |= kept_edges[row]
    kept = kept & reached
    kept_edges = kept_edges & kept[graph.readers][:, None] & kept[None, :]
    return PrunedGraph(graph, measure, score, flow, kept, kept_edges)


def _largest(sizes: Tensor, share: float) -> Tensor:
    """The fewest largest entries with a share of the sum; none of size zero."""
    order = sizes.argsort(descending=True, stable=True)
    before = sizes[order].cumsum(0) - sizes[order]
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order] = before < share * sizes.sum()
    return chosen & (sizes > 0)


def _share_of(sizes: Tensor, kept: Tensor) -> float:
    whole = float(sizes.sum())
    return float(sizes[kept].sum()) / whole if whole else float("nan")

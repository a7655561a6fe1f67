"""Direct effects between the latents of several dictionaries on one prompt.

With the leaves l of :mod:`sae.analysis.graphs.local_model` (at every place the sum of what its nodes write, each node
the summand v_a), and the pre-activation of an active latent b at the prompt, p_b(x) = g_b . x + c_b with g_b =
d z_b / d x there, the weight of the edge from node a to node b is

    w_ab = v_a . d p_b / d l_a

where gradients stop at every other leaf: a path through the latents of a third dictionary is no part of it. For a
latent a, v_a = z_a W_dec[a]: its activation times the derivative along its decoder direction. For an error node v_a
is the error, for an input the input of the first block. With

    bias_b = p_b with all leaves at zero nodes (biases alone),    p_b = sum_a w_ab + bias_b + remainder_b

the remainder is zero where the model between places is linear: with frozen attention patterns and scales of norms, and
every MLP behind a transcoder. This is the local replacement model of Ameisen et al. 2025, 'Circuit tracing: revealing
computational graphs in language models', section 3; error nodes keep the forward pass as it is, as in Marks et al.
2024, 'Sparse feature circuits'. Two settings differ from both:

    attention, norms   "frozen", or "through": gradients pass patterns or scales, so that what decides where to look has
                       edges too (the induction circuit has no other edge into its second head's keys)
    method             "gradient" at the prompt, or "integrated": the mean gradient while all leaves go from zero nodes
                       to the prompt together (Sundararajan, Taly and Yan 2017). Saturated softmaxes have no gradient
                       at the prompt; integrated, the remainder goes to zero with the number of steps

Latents are followed in the order of their influence on the target, `max_nodes` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.analysis.graphs.graph import (
    NO_LATENT,
    AttributionGraph,
    GraphNode,
    LatentTarget,
    LogitTarget,
    Target,
    check_position,
)
from sae.analysis.graphs.influence import influences_of
from sae.analysis.graphs.local_model import LocalModel, Readout, local_model
from sae.analysis.intervention.splicing import Places
from sae.model.hooked import Model
from sae.numerics.memory import check_memory
from sae.registry import Settings


class GraphConfig(Settings):
    """Settings of an attribution graph."""

    attention: Literal["frozen", "through"] = "frozen"
    """Whether attention patterns are those of the prompt, or gradients pass through them."""
    norms: Literal["frozen", "through"] = "frozen"
    """The same for the scales of norms."""
    method: Literal["gradient", "integrated"] = "gradient"
    """The gradient at the prompt, or its mean on the way from zero nodes to the prompt."""
    steps: int = Field(default=16, gt=0)
    """The points of that way at which gradients are taken."""
    max_nodes: int = Field(default=2000, gt=0)
    """The largest number of latents whose incoming edges are computed."""
    rows_at_once: int = Field(default=64, gt=0)
    """Copies of the prompt in one forward pass, one for each reader."""


def attribution_graph(
    model: Model | Any,
    places: Places,
    tokens: Int[Tensor, "rows n_tokens"],
    target: Target,
    config: GraphConfig | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> AttributionGraph:
    """The attribution graph of one prompt, a single row of tokens, and one target.

    `places` are those of :func:`sae.splice`. Raises `UserError` for a target that does not exist, such as a latent that
    is not active there, and see :func:`~sae.analysis.graphs.local_model.local_model`.
    """
    config = config or GraphConfig()
    local = local_model(model, places, tokens, config.attention == "frozen", config.norms == "frozen")
    tracer = _Tracer(local, config, _at_position(target, tokens.shape[1]))
    most = min(config.max_nodes, tracer.n_latents)
    check_memory(f"max_nodes = {config.max_nodes}", 3 * most * len(tracer.nodes) * local.logits.element_size())
    tracer.follow([len(tracer.nodes) - 1])
    while waiting := tracer.next_readers():
        tracer.follow(waiting)
        if progress is not None:
            progress(len(tracer.rows) - 1, most, "latents")
    return tracer.graph()


def _at_position(target: Target, n_tokens: int) -> Target:
    position = check_position(target.position, n_tokens)
    if isinstance(target, LogitTarget):
        return LogitTarget(position, target.token, target.against)
    return LatentTarget(target.place, position, target.latent)


@dataclass(eq=False)
class _Tracer:
    """The nodes of a prompt, and the rows of the graph that are known so far."""

    local: LocalModel
    config: GraphConfig
    target: Target
    nodes: list[GraphNode] = field(default_factory=list[GraphNode])
    latents: dict[str, tuple[Tensor, Tensor, int]] = field(default_factory=dict[str, tuple[Tensor, Tensor, int]])
    rows: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    """The weights of the edges into each reader."""
    bias: dict[int, float] = field(default_factory=dict[int, float])
    value: dict[int, float] = field(default_factory=dict[int, float])

    def __post_init__(self) -> None:
        local, target = self.local, self.target
        self.readout = local.readout(target)
        reads = {name: place.x[None] for name, place in local.places.items()}
        value = float(self.readout.of(reads, local.logits[None]))
        self.nodes += [GraphNode("input", "", t, NO_LATENT, float(x.norm())) for t, x in enumerate(local.inputs)]
        for name, place in local.places.items():
            position, latent = (place.z > 0).nonzero(as_tuple=True)
            self.latents[name] = (position, latent, len(self.nodes))
            found = zip(position.tolist(), latent.tolist(), place.z[position, latent].tolist(), strict=True)
            self.nodes += [GraphNode("latent", name, t, j, v) for t, j, v in found]
            self.nodes += [GraphNode("error", name, t, NO_LATENT, float(e.norm())) for t, e in enumerate(place.error)]
        with torch.no_grad():
            self.at_zero = local.run(local.leaves(0.0, 1))
        place_name = "" if isinstance(target, LogitTarget) else target.place
        latent_number = NO_LATENT if isinstance(target, LogitTarget) else target.latent
        self.nodes.append(GraphNode("target", place_name, target.position, latent_number, value))
        self._is_latent = torch.tensor([node.kind == "latent" for node in self.nodes])
        self.directions = {name: local.places[name].directions(latent) for name, (_, latent, _) in self.latents.items()}

    @property
    def n_latents(self) -> int:
        """The number of nodes that are latents."""
        return int(self._is_latent.sum())

    def next_readers(self) -> list[int]:
        """The latents of the most influence on the target that were not followed yet; empty at the limit, or where no
        other has any."""
        room = min(self.config.rows_at_once, self.config.max_nodes - (len(self.rows) - 1))
        readers, weights = self._known()
        influence = influences_of(readers, weights)
        influence[readers] = 0
        influence[~self._is_latent] = 0
        best = influence.argsort(descending=True, stable=True)[: max(0, room)]
        return best[influence[best] > 0].tolist()

    def follow(self, readers: Sequence[int]) -> None:
        """Computes the edges into some nodes."""
        seeds = [self._seed(node) for node in readers]
        n_steps = self.config.steps if self.config.method == "integrated" else 1
        points = [(i + 0.5) / n_steps for i in range(n_steps)] if self.config.method == "integrated" else [1.0]
        total = torch.zeros(len(readers), len(self.nodes), dtype=self.local.logits.dtype)
        for at in points:
            total += self._weights(seeds, at) / len(points)
        for row, (node, seed) in enumerate(zip(readers, seeds, strict=True)):
            self.rows[node] = total[row]
            self.bias[node] = float(seed.of(*self.at_zero))
            self.value[node] = self.nodes[node].value

    def graph(self) -> AttributionGraph:
        readers, weights = self._known()
        bias, value = (
            torch.tensor([of[int(i)] for i in readers], dtype=torch.float64) for of in (self.bias, self.value)
        )
        tokens = tuple(self.local.tokens[0].tolist())
        places = tuple(self.local.places)
        return AttributionGraph(tokens, places, self.target, tuple(self.nodes), readers, weights, bias, value)

    def _known(self) -> tuple[Int[Tensor, " n_readers"], Float[Tensor, "n_readers n_nodes"]]:
        readers = sorted(self.rows)
        return torch.tensor(readers), torch.stack([self.rows[i] for i in readers])

    def _seed(self, node: int) -> Readout:
        kind, name, position, latent, _ = self.nodes[node]
        if kind == "target":
            return self.readout
        return Readout(name, position, *self.local.places[name].pre_activation(position, latent))

    def _weights(self, seeds: Sequence[Readout], at: float) -> Tensor:
        """The edges into several readers, by the gradients at a point between zero nodes and the prompt."""
        local = self.local
        with torch.enable_grad():
            leaves = local.leaves(at, len(seeds))
            reads, logits = local.run(leaves)
            # One scalar for all copies of the prompt, as no copy depends on the leaves of another.
            acts = [logits if seed.place is None else reads[seed.place] for seed in seeds]
            read = [acts[i][i, seed.position] @ seed.direction for i, seed in enumerate(seeds)]
            slopes = torch.autograd.grad(
                torch.stack(read).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        slope = dict(zip(leaves, slopes, strict=True))
        parts = [(slope[""] * local.inputs).sum(-1)]
        for name, (position, latent, _) in self.latents.items():
            place = local.places[name]
            along = (slope[name][:, position] * self.directions[name]).sum(-1)
            parts += [along * place.z[position, latent], (slope[name] * place.error).sum(-1)]
        return torch.cat([*parts, parts[0].new_zeros(len(seeds), 1)], dim=1).cpu()

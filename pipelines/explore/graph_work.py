"""The prompts and graphs of `sae graph`: what is asked, on which model, with which dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from pipelines.explore.graph_data import default_target
from sae.activations.disk_source import Activations
from sae.analysis.graphs.edges import GraphConfig, attribution_graph
from sae.analysis.graphs.graph import LatentTarget, LogitTarget, Target, check_position
from sae.analysis.graphs.influence import PrunedGraph, Ranking, prune
from sae.analysis.graphs.local_model import local_model
from sae.analysis.graphs.subgraphs import (
    NodeMean,
    Subgraph,
    kept_latents,
    latents_of,
    random_subgraphs,
    run_subgraphs,
)
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.registry import Settings, UserError
from sae.source import Progress


class PageConfig(Settings):
    """What is computed and shown for `sae graph`."""

    graph: GraphConfig = GraphConfig()
    """How effects are computed."""
    nodes: float = Field(0.8, gt=0, le=1)
    """The share of the influence that the shown nodes have."""
    edges: float = Field(0.98, gt=0, le=1)
    """The share of the flow between them that the shown edges have."""
    measure: Ranking = "influence"
    """What nodes are ranked by."""
    ablate: Literal["mean", "zero"] = "mean"
    """What a latent that is left out is set to."""
    draws: int = Field(20, gt=0)
    """Random subgraphs of each prompt."""
    prompts: int = Field(1, gt=0)
    """Prompts over which faithfulness is measured: the shown one, and others of the held-out text."""
    contexts: int = Field(4, ge=0)
    """Rows of held-out text shown for each latent; 0 for none."""
    seed: int = 0
    """The seed of random subgraphs and of the other prompts."""


@dataclass(frozen=True)
class GraphRequest:
    """What a graph is of; None takes the default."""

    text: str | None = None
    """The prompt; None: a held-out row."""
    row: int = 0
    """The held-out row."""
    position: int | None = None
    """The position of the target; None: the last one with an answer."""
    token: str | None = None
    """The token whose logit it is; None: the most likely one."""
    against: str | None = "mean"
    """The token whose logit is subtracted, or ``mean`` or ``none``."""
    latent: str | None = None
    """``PLACE:NUMBER``, a latent as the target in place of a logit."""


@dataclass(frozen=True, eq=False)
class GraphWork:
    """A model with dictionaries, held-out text and names of tokens."""

    source: Activations
    """The source with the text."""
    model: Model
    """Its model."""
    places: dict[str, Dictionary]
    """The dictionaries, on the model's device."""
    settings: PageConfig
    """What is computed."""
    means: Mapping[str, NodeMean]
    """What takes the place of an ablated latent."""

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer; None for a toy, whose tokens are numbers."""
        return None if self.source.tokenizer is None else self.source.tokenizer()

    def token(self, text: str) -> int:
        """The number of a token. Raises `UserError` where a text is not one."""
        number = text.removeprefix("#")
        if number.isdecimal() and (text.startswith("#") or self.tokenizer is None):
            return int(number)
        if self.tokenizer is None:
            raise UserError(f"token = {text!r}: tokens of this model are numbers; give one, such as 3")
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            parts = ", ".join(map(repr, self.tokenizer.convert_ids_to_tokens(ids)))
            raise UserError(
                f"token = {text!r}: {len(ids)} tokens ({parts}); give one of them, or a number as #{ids[0]}"
            )
        return ids[0]

    def prompt(self, asked: GraphRequest) -> tuple[Int[Tensor, "1 n_tokens"], Target]:
        """The row of tokens up to the target's position, and the target."""
        row, answers = self._row(asked)
        position = asked.position
        if position is None:
            known = [] if answers is None else (answers >= 0).nonzero()[:, 0].tolist()
            position = known[len(known) // 2] if known else len(row) - 1
        position = check_position(position, len(row))
        tokens = row[None, : position + 1].to(self.model.device)
        if asked.latent is not None:
            place, _, number = asked.latent.rpartition(":")
            if not number.isdecimal() or not place:
                raise UserError(f"latent = {asked.latent!r}: give PLACE:NUMBER, such as blocks.2.hook_resid_post:17")
            return tokens, LatentTarget(place, position, int(number))
        if asked.token is None:
            with torch.no_grad():
                logits = self.model.bridge(tokens, return_type="logits")[0, -1]
            target = default_target(logits, position)
        else:
            target = LogitTarget(position, self.token(asked.token), "mean")
        if asked.against in (None, "none"):
            return tokens, LogitTarget(position, target.token)
        return tokens, target if asked.against == "mean" else LogitTarget(
            position, target.token, self.token(str(asked.against))
        )

    def _row(self, asked: GraphRequest) -> tuple[Tensor, Tensor | None]:
        if asked.text is not None:
            if self.tokenizer is None:
                raise UserError("text: this model reads no text; leave it out and give a row")
            ids = self.tokenizer.encode(asked.text, add_special_tokens=False)
            bos = self.tokenizer.bos_token_id
            row, longest = [*([] if bos is None else [bos]), *ids], self.model.n_ctx
            if longest is not None and len(row) > longest:
                raise UserError(f"text: {len(row)} tokens, but {self.model.name} takes at most {longest}; shorten it")
            return torch.tensor(row), None
        text = self.source.tokens("test")
        if not 0 <= asked.row < len(text):
            raise UserError(f"row = {asked.row}: there are {len(text)} held-out rows; give 0 to {len(text) - 1}")
        return text.tokens[asked.row], None if text.answers is None else text.answers[asked.row]

    def pruned(self, tokens: Tensor, target: Target, tell: Progress | None = None) -> PrunedGraph:
        """The graph of a prompt, pruned."""
        s = self.settings
        graph = attribution_graph(self.model, self.places, tokens, target, s.graph, tell)
        return prune(graph, s.nodes, s.edges, s.measure)

    def measured(self, pruned: PrunedGraph) -> Subgraph:
        """What the kept latents of a graph explain, next to as many random ones."""
        graph = pruned.graph
        local = local_model(self.model, self.places, torch.tensor([graph.tokens]), False, False)
        latents = [i for i, node in enumerate(graph.nodes) if node.kind == "latent" and float(pruned.score[i]) != 0]
        kept = pruned.kept.nonzero()[:, 0].tolist()
        sets = random_subgraphs(graph, kept, latents, self.settings.draws, self.settings.seed)
        random = [latents_of(graph, chosen, local) for chosen in sets]
        return run_subgraphs(local, graph.target, kept_latents(pruned, local), random, self.means)

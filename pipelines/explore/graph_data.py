"""What the page of an attribution graph shows: nodes and edges with names, as text and numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.explore.words import plain, rounded
from pipelines.report.numbers import MINUS
from sae.analysis.graphs.contexts import TopRows
from sae.analysis.graphs.graph import GraphNode, LatentTarget, LogitTarget, Target
from sae.analysis.graphs.influence import PrunedGraph, total_effects
from sae.analysis.intervention.splicing import ends
from sae.analysis.latents.words import Words

WINDOW_BEFORE, WINDOW_AFTER = 14, 5
"""Tokens before and after the strongest activation of a context."""
SHADES = 4
"""Strengths of activation that a context distinguishes."""


@dataclass(frozen=True, eq=False)
class NamedGraph:
    """A pruned graph with the names of its tokens and what its latents fire on."""

    pruned: PrunedGraph
    """The graph."""
    words: Words
    """The text of a token."""
    answers: Words
    """The text of a token that the logits predict."""
    tops: Mapping[str, tuple[Sequence[int], TopRows]]
    """By place, latents and the rows in which they are most active."""

    def place_label(self, place: str) -> str:
        """A short name of a place, such as ``1 attn z`` for ``blocks.1.attn.hook_z``; ``1 mlp`` for a transcoder."""
        hook, target = ends(place)
        name = re.sub(r"[._]+", " ", target.removeprefix("blocks.").replace("hook_", "").replace("resid_", "stream "))
        return " ".join(name.split()).removesuffix(" out" if hook != target else "")

    def fires_on(self, place: str, latent: int) -> str:
        """The token at which a latent is most active in most of its contexts; empty where they are not known."""
        if place not in self.tops:
            return ""
        latents, top = self.tops[place]
        k = list(latents).index(latent)
        at = top.codes[k].argmax(-1, keepdim=True)
        tokens = top.tokens[k].gather(1, at)[top.codes[k].amax(-1) > 0, 0].tolist()
        return self.words(Counter(tokens).most_common(1)[0][0]).strip() if tokens else ""

    def token(self, position: int) -> str:
        """The text of the prompt's token at a position."""
        return self.words(self.pruned.graph.tokens[position])

    def node_name(self, node: GraphNode) -> str:
        """A name that tells a node from the others."""
        where = f"at {node.position}"
        if node.kind == "input":
            return f"“{self.token(node.position).strip()}” {where}"
        if node.kind == "error":
            return f"error of {self.place_label(node.place)} {where}"
        if node.kind == "target":
            return self.target_name(self.pruned.graph.target)
        word = self.fires_on(node.place, node.latent)
        return f"{self.place_label(node.place)} #{node.latent}{f' “{word}”' if word else ''} {where}"

    def target_name(self, target: Target) -> str:
        """The target in words."""
        if isinstance(target, LatentTarget):
            return f"latent {target.latent} of {self.place_label(target.place)}"
        token = f"“{self.answers(target.token).strip()}”"
        if target.against is None:
            return token
        if isinstance(target.against, int):
            return f"{token} {MINUS} “{self.answers(target.against).strip()}”"
        return f"{token} {MINUS} mean logit"

    def rows(self) -> list[str]:
        """The names of the rows of the picture, from the inputs up."""
        places = self.pruned.graph.places
        kinds = ["" if "->" not in place else ", transcoder" for place in places]
        return ["input", *(self.place_label(p) + kind for p, kind in zip(places, kinds, strict=True)), "target"]

    def node_row(self, node: GraphNode) -> int:
        """The row of the picture that a node is in."""
        places = self.pruned.graph.places
        at_place = node.kind in ("latent", "error")
        return 0 if node.kind == "input" else 1 + places.index(node.place) if at_place else 1 + len(places)

    def kept(self) -> list[int]:
        """The nodes that are shown."""
        return self.pruned.kept.nonzero()[:, 0].tolist()

    def page_data(self) -> dict[str, Any]:
        """Nodes and edges for the script of the page, and for ``graph.json``; nodes are counted as shown."""
        graph, kept = self.pruned.graph, self.kept()
        number, effects = {node: i for i, node in enumerate(kept)}, total_effects(graph)
        nodes = []
        for i in kept:
            node = graph.nodes[i]
            nodes.append(
                {
                    "name": self.node_name(node), "kind": node.kind, "place": node.place, "row": self.node_row(node),
                    "position": node.position, "latent": node.latent if node.kind == "latent" else None,
                    "token": self.token(node.position), "value": rounded(node.value),
                    "score": rounded(float(self.pruned.score[i])), "effect": rounded(float(effects[i])),
                    "followed": i in graph.reader_of or node.kind != "latent", "contexts": self._contexts(node),
                }
            )  # fmt: skip
        readers = graph.readers.tolist()
        edges = [
            [number[a], number[readers[row]], *(rounded(float(of[row, a])) for of in (graph.weights, self.pruned.flow))]
            for row, a in self.pruned.kept_edges.nonzero().tolist()
        ]
        edges.sort(key=lambda e: -abs(e[3] or 0))
        return {"rows": self.rows(), "tokens": [self.token(t) for t in range(len(graph.tokens))], "nodes": nodes,
                "edges": edges}  # fmt: skip

    def _contexts(self, node: GraphNode) -> list[list[list[Any]]]:
        """Windows of text around a latent's strongest activations: pairs of text and shade, 0 for none; the strongest
        has the shade with a minus sign."""
        if node.kind != "latent" or node.place not in self.tops:
            return []
        latents, top = self.tops[node.place]
        k = list(latents).index(node.latent)
        most, windows = float(top.codes[k].max()), list[list[list[Any]]]()
        for tokens, codes in zip(top.tokens[k].tolist(), top.codes[k].tolist(), strict=True):
            at = max(range(len(codes)), key=codes.__getitem__)
            if codes[at] <= 0:
                continue
            window: list[list[Any]] = []
            for t in range(max(0, at - WINDOW_BEFORE), min(len(tokens), at + WINDOW_AFTER + 1)):
                shade = math.ceil(SHADES * codes[t] / most) if codes[t] > 0 else 0
                window.append([self.words(tokens[t]), -shade if t == at else shade])
            windows.append(window)
        return windows

    def table(self, most: int = 60) -> list[dict[str, str]]:
        """The nodes of the most influence, for readers without a script."""
        data = self.page_data()
        order = sorted(range(len(data["nodes"])), key=lambda i: -abs(data["nodes"][i]["score"] or 0))
        lines = []
        for i in [i for i in order if data["nodes"][i]["kind"] != "target"][:most]:
            node = data["nodes"][i]
            out = [(data["nodes"][t]["name"], w) for s, t, w, _ in data["edges"] if s == i]
            into = [(data["nodes"][s]["name"], w) for s, t, w, _ in data["edges"] if t == i]
            lines.append(
                {
                    "name": node["name"], "token": node["token"], "value": plain(node["value"]),
                    "score": plain(node["score"]), "effect": plain(node["effect"]),
                    "from": _listed(into), "to": _listed(out),
                }
            )  # fmt: skip
        return lines


def _listed(edges: Sequence[tuple[str, float | None]], most: int = 3) -> str:
    largest = sorted(edges, key=lambda e: -abs(e[1] or 0))[:most]
    return "; ".join(f"{name} ({plain(w if w is not None else math.nan)})" for name, w in largest)


def default_target(logits: Any, position: int) -> LogitTarget:
    """The most likely token at a position, against the mean of all logits."""
    return LogitTarget(position, int(logits.argmax()), "mean")

"""Writes the page of an attribution graph, one file that loads nothing, with the same content as JSON next to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.config.config import Config
from pipelines.explore.graph_data import SHADES, NamedGraph
from pipelines.explore.graph_drawing import draw
from pipelines.explore.graph_work import GraphWork, PageConfig
from pipelines.explore.site import replaced_folder
from pipelines.explore.words import percent, plain, rounded, script
from pipelines.report.page import template_environment
from sae.analysis.graphs.graph import LogitTarget
from sae.analysis.graphs.influence import PrunedGraph
from sae.analysis.graphs.subgraphs import Faithfulness, Subgraph, faithfulness
from sae.numerics.statistics import Interval

GRAPH_MARK = "graph.json"
"""The file that marks a folder of a graph; a folder without it is never replaced."""


def write_graph_page(
    out: Path,
    settings: Config,
    work: GraphWork,
    named: NamedGraph,
    faithful: Faithfulness,
    prompts: Sequence[Subgraph],
) -> None:
    """Writes ``index.html`` and ``graph.json`` to a folder, in place of a graph that is there."""
    config = work.settings
    pruned, graph, data = named.pruned, named.pruned.graph, named.page_data()
    picture, target = draw(data), graph.target
    page = template_environment().get_template("graph.html")
    is_logit = isinstance(target, LogitTarget)
    variables: dict[str, Any] = {
        "title": settings.title, "kicker": settings.name, "target": named.target_name(target), "tokens": data["tokens"],
        "position": target.position, "next": named.answers(target.token).strip() if is_logit else "",
        "lede": _lede(named, faithfulness(prompts[:1])), "facts": _facts(named, faithful), "picture": picture.svg,
        "wide": picture.width > 900, "score": pruned.measure, "notes": _notes(pruned, config),
        "ablated": "set to its mean over held-out text" if config.ablate == "mean" else "set to zero",
        "shares": _shares(faithful), "shares_note": _shares_note(faithful, config, prompts), "lines": named.table(),
        "settings": _settings(work), "script": Markup(script(data)), "shades": SHADES,
    }  # fmt: skip
    with replaced_folder(out) as partial:
        (partial / "index.html").write_text(page.render(variables), encoding="utf-8")
        everything = {
            "prompt": list(graph.tokens), "target": asdict(target), "places": list(graph.places),
            "settings": config.model_dump(mode="json"), "graph": data, "shares": _plain(faithful), "whole_graph": {
                "nodes": len(graph.nodes), "followed": len(graph.readers) - 1, "not_followed": pruned.n_unfollowed,
                "largest_remainder": rounded(float(graph.remainder.abs().max())),
                "target_value": float(graph.value[-1]), "target_bias": float(graph.bias[-1]),
                "node_share": pruned.node_share, "edge_share": pruned.edge_share,
                "input_share": rounded(pruned.share_of("input")), "error_share": rounded(pruned.share_of("error")),
            },
        }  # fmt: skip
        (partial / GRAPH_MARK).write_text(json.dumps(everything, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(faithful: Faithfulness) -> dict[str, Any]:
    values = asdict(faithful)
    return {
        name: [rounded(x) for x in value] if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
        for name, value in values.items()
    }


def _lede(named: NamedGraph, faithful: Faithfulness) -> str:
    pruned = named.pruned
    n = sum(pruned.graph.nodes[i].kind == "latent" for i in named.kept())
    where = f"position {pruned.graph.target.position}"
    return (
        f"{n} latents at {len(pruned.graph.places)} hook points, and what leads from them to the target at {where}. "
        f"Alone they keep {percent(faithful.kept.value)} of the effect, and {percent(faithful.kept_and_errors.value)} "
        "with the dictionaries' errors."
    )


def _facts(named: NamedGraph, faithful: Faithfulness) -> list[tuple[str, str]]:
    pruned, graph = named.pruned, named.pruned.graph
    kept = int(pruned.kept.sum()) - 1
    facts = [
        ("value of the target", plain(float(graph.value[-1]))),
        ("nodes, of all", f"{kept:,} of {len(graph.nodes) - 1:,}"),
        ("of the influence", percent(pruned.node_share)),
        ("edges", f"{int(pruned.kept_edges.sum()):,}"),
        ("of their flow", percent(pruned.edge_share)),
    ]
    if pruned.measure == "influence":
        facts += [("ends at errors", percent(pruned.share_of("error")))]
        facts += [("ends at inputs", percent(pruned.share_of("input")))]
    return facts


def _notes(pruned: PrunedGraph, config: PageConfig) -> list[str]:
    graph, g = pruned.graph, config.graph
    frozen = {"frozen": "those of the prompt", "through": "passed by gradients"}
    notes = [f"Attention patterns are {frozen[g.attention]}, scales of norms {frozen[g.norms]}."]
    if pruned.n_unfollowed:
        notes.append(
            f"{pruned.n_unfollowed:,} latents of less influence were not followed: their inputs are not known."
        )
    largest = float((graph.remainder.abs() / graph.value.abs().clamp_min(1e-12)).median())
    if largest > 1e-3:
        notes.append(
            f"Edges and bias leave {percent(largest)} of a latent's activation unexplained in the median, because the "
            "model between the hook points is not linear."
        )
    return notes


def _shares(faithful: Faithfulness) -> list[tuple[str, str, str]]:
    def cell(value: Interval) -> str:
        if value.low != value.low or faithful.n_prompts == 1:
            return percent(value.value)
        return f"{percent(value.value)} [{percent(value.low)}, {percent(value.high)}]"

    f = faithful
    return [
        ("these latents", cell(f.kept), cell(f.random)),
        ("these latents and all errors", cell(f.kept_and_errors), cell(f.random_and_errors)),
        ("all latents", cell(f.latents), ""),
        ("errors alone", cell(f.errors), ""),
    ]


def _shares_note(faithful: Faithfulness, config: PageConfig, prompts: Sequence[Subgraph]) -> str:
    first = prompts[0]
    over = (
        "This prompt alone, so there are no intervals; --prompts 20 measures more."
        if faithful.n_prompts == 1
        else f"Over {faithful.n_prompts} prompts, each with its own graph; 95% intervals over prompts."
    )
    return (
        f"{over} The target is {plain(first.whole)} in the model on the prompt shown, and {plain(first.none)} with "
        f"every latent and error ablated; {config.draws} random draws for each prompt."
    )


def _settings(work: GraphWork) -> list[tuple[str, Any]]:
    config = work.settings
    values: dict[str, Any] = {"model": work.model.name}
    values |= {place: f"{d.kind}, {d.n_latents:,} latents" for place, d in work.places.items()}
    values |= {k: v for k, v in config.graph.model_dump().items() if k != "rows_at_once"}
    return [*values.items(), *((k, v) for k, v in config.model_dump().items() if k != "graph")]

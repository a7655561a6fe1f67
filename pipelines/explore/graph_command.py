"""From a config and dictionaries at several hook points to the page of an attribution graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines import runner
from pipelines.config.config import Config
from pipelines.explore.graph_data import NamedGraph
from pipelines.explore.graph_page import GRAPH_MARK, write_graph_page
from pipelines.explore.graph_places import chosen_places
from pipelines.explore.graph_work import GraphRequest, GraphWork, PageConfig
from pipelines.explore.site import check_site_folder
from pipelines.plan import source_steps
from pipelines.question import AnswerTable, AnswerValue
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.activations.disk_source import Activations
from sae.analysis.graphs.contexts import top_rows
from sae.analysis.graphs.influence import PrunedGraph
from sae.analysis.graphs.subgraphs import Faithfulness, Subgraph, faithfulness, mean_nodes, zero_nodes
from sae.analysis.latents.words import Words, vocabulary
from sae.registry import UserError
from sae.sources import attention

TEXT_ROWS = 256
"""The largest number of held-out rows from which means and contexts are taken."""


@dataclass(frozen=True, eq=False)
class GraphResult:
    """A graph, what it explains, and where its page is."""

    pruned: PrunedGraph
    """The graph of the first prompt, pruned."""
    prompts: Sequence[Subgraph]
    """The values with and without the kept latents, of every prompt."""
    faithful: Faithfulness
    """The shares of the effect over the prompts."""
    page: Path
    """The page."""


def write_graph(
    settings: Config,
    dictionaries: Sequence[str],
    asked: GraphRequest,
    config: PageConfig,
    out: Path | None,
    board: Board,
    root: Path | None = None,
) -> GraphResult:
    """Writes the page of an attribution graph, ``index.html`` with ``graph.json`` next to it.

    `dictionaries` are paths, the place from the card of each, or ``PLACE=PATH``; none takes the best of the
    config's run at each of its hook points. Raises `UserError` where a place or a target is not possible.
    """
    store = Store(root or settings.runtime.out)
    places = chosen_places(settings, dictionaries, store)
    out = out or store.root / f"{settings.name}-graph"
    check_site_folder(out, GRAPH_MARK, "sae graph")
    step, *_ = source_steps(settings)  # others have the same model
    runtime = runner.execution(settings.runtime)
    source = runner.prepared_source(step, store, runtime, board)
    if not isinstance(source, Activations):
        raise UserError("source: a graph needs a model's activations; give a source of kind transformer or attention")
    model = source.boot()
    model.check_logits()
    places = {name: d.to(model.device) for name, d in places.items()}
    text = source.tokens("test")[:TEXT_ROWS]
    means = mean_nodes(model, places, text.tokens) if config.ablate == "mean" else zero_nodes(places)
    work = GraphWork(source, model, places, config, means)
    with board.work("graph: effects", [], store.root) as tell:
        tokens, target = work.prompt(asked)
        pruned = work.pruned(tokens, target, tell)
    prompts = [work.measured(pruned)]
    with board.work("graph: faithfulness", [], store.root) as tell:
        for k in range(1, config.prompts):
            # Others have as many tokens as a text that was given; rows of a toy have answers that say where to ask.
            position = asked.position if asked.text is None else tokens.shape[1] - 1
            row = (asked.row + k) % len(source.tokens("test"))
            other = GraphRequest(row=row, against=asked.against, position=position)
            prompts.append(work.measured(work.pruned(*work.prompt(other))))
            tell(k + 1, config.prompts, "prompts")
    faithful = faithfulness(prompts, config.seed)
    latents: dict[str, list[int]] = {name: [] for name in places}
    for i in pruned.kept.nonzero()[:, 0].tolist():
        node = pruned.graph.nodes[i]
        if node.kind == "latent" and node.latent not in latents[node.place]:
            latents[node.place].append(node.latent)
    tops = top_rows(model, places, latents, text, config.contexts) if config.contexts else {}
    named = NamedGraph(pruned, _words(source), _words(source, True), {n: (latents[n], t) for n, t in tops.items()})
    write_graph_page(out, settings, work, named, faithful, prompts)
    return GraphResult(pruned, prompts, faithful, out / "index.html")


def answer_tables(result: GraphResult) -> list[AnswerTable]:
    """The tables that the command prints."""
    f, pruned, graph = result.faithful, result.pruned, result.pruned.graph
    rows: list[list[AnswerValue]] = [
        ["these latents", f.kept, f.random],
        ["these latents and all errors", f.kept_and_errors, f.random_and_errors],
        ["all latents", f.latents, None],
        ["errors alone", f.errors, None],
    ]
    ends: list[list[AnswerValue]] = [
        [f"paths that end at {kind}s", None, None, pruned.share_of(kind)] for kind in ("input", "error")
    ]
    shown: list[list[AnswerValue]] = [
        ["nodes", int(pruned.kept.sum()) - 1, len(graph.nodes) - 1, pruned.node_share],
        ["edges", int(pruned.kept_edges.sum()), int((graph.weights != 0).sum()), pruned.edge_share],
    ]
    title = f"share of the effect explained, {f.n_prompts} prompt{'s' if f.n_prompts > 1 else ''}"
    return [
        AnswerTable("the graph", ("", "shown", "all", f"share of the {pruned.measure}"), [*shown, *ends]),
        AnswerTable(title, ("the model with", "this graph's", "random"), rows),
    ]


def _words(source: Activations, answers: bool = False) -> Words:
    """The text of tokens; of the toys' special ones, a name."""
    words, config = vocabulary(source), source.config
    if not isinstance(config, attention.Config) or answers:
        return words
    special = {} if config.task.bos is None else {config.task.bos: " BOS"}
    special |= {10: " ="} if config.task.name == "addition" else {}
    return lambda token: special.get(token, words(token))

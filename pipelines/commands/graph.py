"""The command `sae graph`: an attribution graph as a page. Nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipelines.commands.options import ConfigName, Out, Set, Tier, read_settings
from pipelines.commands.output import Terminal

_Passed = Literal["frozen", "through"]


def graph(
    config: ConfigName,
    *dictionaries: Annotated[str, Parameter(allow_leading_hyphen=False)],
    text: str | None = None,
    row: int = 0,
    position: int | None = None,
    token: str | None = None,
    against: str = "mean",
    latent: str | None = None,
    pages: Path | None = None,
    nodes: float = 0.8,
    edges: float = 0.98,
    measure: Literal["influence", "effect"] = "influence",
    attention: _Passed = "frozen",
    norms: _Passed = "frozen",
    method: Literal["gradient", "integrated"] = "gradient",
    steps: int = 16,
    max_nodes: int = 2000,
    ablate: Literal["mean", "zero"] = "mean",
    prompts: int = 1,
    draws: int = 20,
    contexts: int = 4,
    set: Set = None,
    out: Out = None,
    tier: Tier = "full",
) -> None:
    """Draw which latents lead to a logit: an attribution graph over dictionaries at several hook points of one model.

    Writes one page that works offline, and graph.json with the same content. Prints how much of the effect the shown
    latents explain in the model, next to random ones.

    Parameters
    ----------
    dictionaries
        Saved dictionaries, each at the hook point on its card, or HOOK=PATH; none takes the best of the config's run at
        each of its hook points. A transcoder's place is "HOOK -> TARGET".
    text
        The prompt. Default: a held-out row of the config's source.
    row
        The held-out row, counted from 0.
    position
        The position whose next token is asked about; default: the last of a text, the middle answer of a toy's row.
    token
        The token whose logit is the target, as text or as #NUMBER; default: the most likely one.
    against
        The token whose logit is subtracted; mean: the mean of all logits; none: nothing.
    latent
        A latent as the target in place of a logit, as HOOK:NUMBER.
    pages
        The folder of the page; by default NAME-graph next to the steps of the run.
    nodes
        The share of the influence that the shown nodes have.
    edges
        The share of the flow between them that the shown edges have.
    measure
        What nodes are ranked by: influence, by absolute shares, or the signed total effect.
    attention
        Whether attention patterns are frozen, or gradients pass through them.
    norms
        The same for the scales of norms.
    method
        The gradient at the prompt, or integrated from zero nodes to the prompt.
    steps
        Points at which integrated gradients are taken.
    max_nodes
        The largest number of latents whose inputs are computed.
    ablate
        What a latent that is left out is set to.
    prompts
        Held-out prompts over which the share of the effect is measured, each with its own graph.
    draws
        Random subgraphs of each prompt.
    contexts
        Rows of held-out text shown for each latent; 0 for none.
    """
    from pipelines.commands.ask import print_answer_table
    from pipelines.explore.graph_command import answer_tables, write_graph
    from pipelines.explore.graph_work import GraphRequest, PageConfig
    from pipelines.steps.progress import Board
    from sae.analysis.graphs.edges import GraphConfig
    from sae.registry import checked_settings

    settings, root = read_settings(config, set, tier, out)
    of_effects = {"attention": attention, "norms": norms, "method": method, "steps": steps, "max_nodes": max_nodes}
    of_page = {"nodes": nodes, "edges": edges, "measure": measure, "ablate": ablate, "draws": draws, "prompts": prompts}
    of_page |= {"graph": checked_settings(GraphConfig, of_effects), "contexts": contexts}
    page = checked_settings(PageConfig, of_page)
    asked = GraphRequest(text, row, position, token, against, latent)
    result = write_graph(settings, dictionaries, asked, page, pages, Board(Terminal(stderr=True)), root)
    console = Terminal()
    for table in answer_tables(result):
        print_answer_table(table, console)
    console.print(f"page: {result.page}", markup=False, highlight=False, soft_wrap=True)

"""The command `sae explore`: pages on the latents of a dictionary. Nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipelines.commands.options import Out, Set, Tier, read_settings
from pipelines.commands.output import Terminal

_Neurons = Annotated[bool, Parameter(name="--neurons", negative=())]
_Export = Annotated[Literal["neuronpedia"] | None, Parameter(name="--export")]


def explore(
    dictionary: str,
    config: Path,
    *,
    pages: Path | None = None,
    latents: str | None = None,
    tokens: int | None = None,
    neurons: _Neurons = False,
    export: _Export = None,
    set: Set = None,
    out: Out = None,
    tier: Tier = "full",
) -> None:
    """Write pages on the latents of a dictionary: where each fires and with which others, what it means, what it does.

    Open index.html in a browser; the pages work offline.

    Parameters
    ----------
    dictionary
        A saved dictionary in any readable format, a step's directory, or a run's best/; hf://owner/name on the hub.
    config
        A TOML file, or the name of a config that `sae configs` lists; its source provides the held-out samples.
    pages
        The folder of the pages; by default next to the steps of the run.
    latents
        How many latents, sampled at random, get a page, such as 200; or their indices, such as 3,17,42.
    tokens
        How many held-out tokens, or samples, to use.
    neurons
        Also write pages on the neurons of the same hook point.
    export
        Write no pages, but files for another viewer: neuronpedia writes the batch files that Neuronpedia imports, of
        all latents or those of --latents, to --pages or to NAME-neuronpedia next to the steps.
    """
    from pipelines import explore as dashboards
    from pipelines.explore.command import latents_config
    from pipelines.steps.progress import Board
    from sae.registry import UserError

    (settings, _), looked = read_settings(config, set, tier, out), latents_config(tokens, latents)
    board = Board(Terminal(stderr=True))
    if export is not None:
        if neurons:
            raise UserError("--neurons: not with --export; leave one of them out")
        folder = dashboards.write_export(dictionary, settings, looked, pages, board, out, chosen=latents is not None)
        Terminal().print(f"files: {folder}", markup=False, highlight=False, soft_wrap=True)
        return
    folder = dashboards.write_pages(dictionary, settings, looked, pages, neurons, board, out)
    Terminal().print(f"pages: {folder / 'index.html'}", markup=False, highlight=False, soft_wrap=True)

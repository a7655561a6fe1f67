"""The command `sae explore`: pages on a dictionary's latents. Nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from pipelines.commands.options import Set

_Neurons = Annotated[bool, Parameter(name="--neurons", negative=())]


def explore(
    dictionary: str,
    config: Path,
    *,
    out: Path | None = None,
    latents: str | None = None,
    tokens: int | None = None,
    neurons: _Neurons = False,
    set: Set = None,
) -> None:
    """Write pages on the latents of a dictionary: where each fires, with whom, what it stands for, what it does.

    Open index.html in a browser; nothing is fetched from anywhere.

    Parameters
    ----------
    dictionary
        A saved dictionary of any readable format, a step of a run, or a run's best/; hf://owner/name on the hub.
    config
        The TOML file whose source the latents are looked at on, on its held-out rows.
    out
        The folder of the pages; beside the steps of the run if it is not given.
    latents
        How many latents have a page, drawn from all, or their numbers: 200, or 3,17,42.
    tokens
        How many held-out tokens, or rows, are looked at.
    neurons
        Also write pages on the neurons of the same hook point.
    set
        A value in place of the file's, such as source.seed=0; may be given several times.
    """
    from pipelines import explore as dashboards
    from pipelines.config.config import read_config
    from pipelines.config.suites import find_config
    from pipelines.explore.command import looked_at
    from pipelines.steps.progress import Board

    settings, looked = read_config(find_config(config), set or ()), looked_at(tokens, latents)
    folder = dashboards.write_pages(dictionary, settings, looked, out, neurons, Board(Console(stderr=True)))
    Console().print(f"pages: {folder / 'index.html'}", markup=False, highlight=False, soft_wrap=True)

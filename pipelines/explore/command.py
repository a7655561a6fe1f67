"""From a dictionary and a config to the pages: prepares the source as a run does, looks at the latents, writes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines import runner
from pipelines.config.config import Config
from pipelines.config.names import labels_of
from pipelines.explore import site
from pipelines.explore.latent import NamedExploration
from pipelines.explore.words import vocabulary
from pipelines.plan import plan
from pipelines.steps.progress import Board
from pipelines.steps.source_steps import open_source
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.analysis.latents import LatentsConfig
from sae.analysis.latents import explore_latents as look
from sae.baselines import neurons
from sae.dictionary import Dictionary
from sae.files import load
from sae.registry import UserError
from sae.source import Source

NEURONS = "neurons"


def write_pages(
    dictionary: str | Path, settings: Config, looked: LatentsConfig, out: Path | None, with_neurons: bool, board: Board
) -> Path:
    """Writes the pages of a dictionary on the source of a config, and gives their folder.

    `out` is ``<name>-explore`` beside the steps of the run if it is not given. With `with_neurons` the basis itself has
    pages of its own beside them, each neuron as two latents. A mistake of the
    user's raises ``ValueError`` or ``FileNotFoundError`` of one line.
    """
    d = load(dictionary)
    if len(settings.sources) != 1:
        found = ", ".join(labels_of([s.model_dump(mode="json") for s in settings.sources], skip=set()))
        raise UserError(f"the config has {len(settings.sources)} sources ({found}); choose one by --set source....")
    step = plan(settings)[0]
    store = Store(_root(Path(dictionary), step, settings.runtime.out))
    out = out or store.root / f"{settings.name}-explore"
    site.check_site_folder(out)
    runtime = runner.execution(settings.runtime)
    runner.run([step], store, runtime, board)
    source = open_source(store.directory(step), runtime.device)
    _check_width(dictionary, d, source, settings)
    parts: list[tuple[str, Dictionary, int | None]] = [("", d, None)]
    if with_neurons:
        parts.append((NEURONS, neurons.Config().fit(source, 0), source.d_in))
    words = vocabulary(source)
    scratch = store.scratch(f"explore-{step.key}")
    scratch.mkdir(parents=True, exist_ok=True)
    made: list[tuple[str, NamedExploration]] = []
    for folder, own, width in parts:
        with board.work(f"explore: {folder or 'latents'}", [], scratch) as tell:
            chosen = looked if width is None else looked.model_copy(update={"latents": _as_many(looked)})
            found = look(own.to(runtime.device), source, chosen, tell)
        made.append((folder, NamedExploration(found, words, width)))
    with board.work("explore: pages", [], scratch) as tell:
        site.write(out, about(settings, d, looked), made, tell)
    shutil.rmtree(scratch)
    return out


def about(settings: Config, d: Dictionary, looked: LatentsConfig) -> dict[str, Any]:
    """What the pages say of what they show: nothing that differs between two runs of the same."""
    source = settings.sources[0].model_dump(mode="json")
    model = source.get("model")
    where = f", {source['hook']} of {Path(model).name}" if isinstance(model, str) and "hook" in source else ""
    kind = f"{d.kind} dictionary of {d.n_latents:,} latents over {d.d_in} dimensions"
    given: Mapping[str, Any] = {**source, **looked.model_dump()}
    hidden = {"kind", "rows_at_once", "model", "text", "labels", "file"}
    rows = [(name, value) for name, value in given.items() if name not in hidden and value is not None]
    return {"title": settings.title, "kicker": settings.name, "lede": f"A {kind}{where}.", "settings": rows}


def looked_at(tokens: int | None, latents: str | None) -> LatentsConfig:
    """The settings that the command's own words ask for; a ``ValueError`` of one line where they are none."""
    given: dict[str, Any] = {} if tokens is None else {"n_tokens": tokens}
    if latents is not None:
        words = [word.strip() for word in latents.split(",") if word.strip()]
        if not words or not all(word.isdecimal() for word in words):
            raise UserError(f"--latents {latents}: give how many, or their numbers with commas: 3,17,42 or 3,")
        numbers = [int(word) for word in words]
        given["latents"] = numbers[0] if "," not in latents else tuple(numbers)
    try:
        return LatentsConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = {"n_tokens": "--tokens", "latents": "--latents"}[str(first["loc"][0])]
        raise UserError(f"{name} {first['input']}: {first['msg']}") from None


def _as_many(looked: LatentsConfig) -> int:
    """As many neurons as latents: the numbers of latents mean nothing among neurons."""
    return looked.latents if isinstance(looked.latents, int) else len(looked.latents)


def _root(dictionary: Path, step: Step, out: Path) -> Path:
    """The folder of steps that the dictionary lies in where the source is done there, else the config's own."""
    for folder in dictionary.resolve().parents:
        if (folder / step.name).is_dir():
            return folder
    return out


def _check_width(dictionary: str | Path, d: Dictionary, source: Source, settings: Config) -> None:
    if d.d_in != source.d_in:
        raise UserError(
            f"{dictionary}: the dictionary takes rows of width {d.d_in}, but the source of {settings.name} has rows of "
            f"width {source.d_in}; give the config that it was trained with"
        )

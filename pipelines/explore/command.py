"""From a dictionary and a config to the pages: prepares the source, analyses the latents, writes the pages."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines import runner
from pipelines.config.config import Config
from pipelines.config.names import labels_of
from pipelines.explore import neuronpedia, site
from pipelines.explore.latent import NamedExploration
from pipelines.plan import source_steps
from pipelines.steps.progress import Board
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.analysis.latents import LatentsConfig, explore_latents
from sae.analysis.latents.words import vocabulary
from sae.baselines import neurons
from sae.dictionary import Dictionary
from sae.files import load
from sae.registry import UserError
from sae.source import Source

NEURONS = "neurons"


def write_pages(
    dictionary: str | Path,
    settings: Config,
    analysis: LatentsConfig,
    out: Path | None,
    with_neurons: bool,
    board: Board,
    root: Path | None = None,
) -> Path:
    """Writes the pages of a dictionary on the source of a config and returns their folder.

    `root` is the folder of the steps, by default the one with the dictionary and its source, otherwise the config's.
    `out` defaults to ``<name>-explore`` in it. `with_neurons` adds pages on the neurons of the same activations, each
    as two latents. Raises `UserError` or `MissingFileError`: there is no such dictionary, the
    config has several sources, widths differ, a latent does not exist, or `out` is a folder of something else.
    """
    opened = _Opened.of(dictionary, settings, out, "explore", site.MARK, board, root)
    d, source = opened.d, opened.source
    parts: list[tuple[str, Dictionary, int | None]] = [("", d, None)]
    if with_neurons:
        parts.append((NEURONS, neurons.Config().fit(source, 0), source.d_in))
    words, scratch = vocabulary(source), opened.scratch
    explorations: list[tuple[str, NamedExploration]] = []
    for folder, explored, width in parts:
        with board.work(f"explore: {folder or 'latents'}", [], scratch) as tell:
            of_part = analysis if width is None else analysis.model_copy(update={"latents": _n_latents(analysis)})
            results = explore_latents(explored.to(opened.device), source, of_part, tell)
        explorations.append((folder, NamedExploration(results, words, width)))
    with board.work("explore: pages", [], scratch) as tell:
        site.write(opened.out, about(settings, d, analysis), explorations, tell)
    shutil.rmtree(scratch)
    return opened.out


def write_export(
    dictionary: str | Path,
    settings: Config,
    analysis: LatentsConfig,
    out: Path | None,
    board: Board,
    root: Path | None = None,
    *,
    chosen: bool = False,
) -> Path:
    """Writes the latents of a dictionary as Neuronpedia's batch files and returns their folder.

    All latents, unless some were `chosen` in the settings of the analysis. `root` and the errors are those of
    :func:`write_pages`; `out` defaults to ``<name>-neuronpedia``. Raises `UserError` where the source has no text, too.
    """
    neuronpedia.check_has_tokens(settings.sources[0])
    opened = _Opened.of(dictionary, settings, out, "neuronpedia", neuronpedia.RUN_SETTINGS, board, root)
    d = opened.d.to(opened.device)
    looked = neuronpedia.export_settings(analysis, d, chosen)
    with board.work("explore: latents for Neuronpedia", [], opened.scratch) as tell:
        neuronpedia.write_batches(opened.out, dictionary, d, opened.source, settings, looked, tell)
    shutil.rmtree(opened.scratch)
    return opened.out


@dataclass(frozen=True, eq=False)
class _Opened:
    """A dictionary with the source of a config, prepared, and the folders to write to."""

    d: Dictionary
    source: Source
    out: Path
    scratch: Path
    device: str

    @classmethod
    def of(
        cls, dictionary: str | Path, settings: Config, out: Path | None, suffix: str, mark: str, board: Board,
        root: Path | None,
    ) -> _Opened:  # fmt: skip
        """Checks everything that can be checked before work, and prepares the source; `mark` is the file of a folder
        that may be replaced."""
        d = load(dictionary)
        if len(settings.sources) != 1:
            names = ", ".join(labels_of([s.model_dump(mode="json") for s in settings.sources], skip=set()))
            raise UserError(
                f"source: the config has {len(settings.sources)} sources ({names}), one is needed; select one, for "
                "example with --set source.seed=0"
            )
        [step] = source_steps(settings)
        store = Store(root or _root(Path(dictionary), step, settings.runtime.out))
        out = out or store.root / f"{settings.name}-{suffix}"
        site.check_site_folder(out, mark)
        runtime = runner.execution(settings.runtime)
        source = runner.prepared_source(step, store, runtime, board)
        _check_width(dictionary, d, source, settings)
        scratch = store.scratch(f"{suffix}-{step.key}")
        scratch.mkdir(parents=True, exist_ok=True)
        return cls(d, source, out, scratch, runtime.device)


def about(settings: Config, d: Dictionary, analysis: LatentsConfig) -> dict[str, Any]:
    """Title, description and settings for the pages; the same for every run with the same settings."""
    source = settings.sources[0].model_dump(mode="json")
    model = source.get("model")
    where = f", {source['hook']} of {Path(model).name}" if isinstance(model, str) and "hook" in source else ""
    kind = f"{d.kind} dictionary of {d.n_latents:,} latents over {d.d_in} dimensions"
    every: Mapping[str, Any] = {**source, **analysis.model_dump()}
    hidden = {"kind", "rows_at_once", "model", "text", "labels", "file"}
    rows = [(name, value) for name, value in every.items() if name not in hidden and value is not None]
    return {"title": settings.title, "kicker": settings.name, "lede": f"A {kind}{where}.", "settings": rows}


def latents_config(tokens: int | None, latents: str | None) -> LatentsConfig:
    """The settings of the analysis from the command's options. Raises `UserError` for invalid options."""
    options: dict[str, Any] = {} if tokens is None else {"n_tokens": tokens}
    if latents is not None:
        words = [word.strip() for word in latents.split(",") if word.strip()]
        if not words or not all(word.isdecimal() for word in words):
            raise UserError(
                f"--latents {latents}: not a number or a list of numbers; give how many, such as 200, or which, such "
                "as 3,17,42 (one latent: 3,)"
            )
        numbers = [int(word) for word in words]
        options["latents"] = numbers[0] if "," not in latents else tuple(numbers)
    try:
        return LatentsConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = {"n_tokens": "--tokens", "latents": "--latents"}[str(first["loc"][0])]
        raise UserError(f"{name} {first['input']}: {first['msg']}") from None


def _n_latents(analysis: LatentsConfig) -> int:
    """How many latents are shown. Neurons are chosen by this number, because the numbers of latents do not apply."""
    return analysis.latents if isinstance(analysis.latents, int) else len(analysis.latents)


def _root(dictionary: Path, step: Step, out: Path) -> Path:
    """The folder of steps that contains the dictionary, if it also contains the finished source, else `out`."""
    for folder in dictionary.resolve().parents:
        if (folder / step.name).is_dir():
            return folder
    return out


def _check_width(dictionary: str | Path, d: Dictionary, source: Source, settings: Config) -> None:
    if d.d_in != source.d_in:
        raise UserError(
            f"{dictionary}: the dictionary takes activations of width {d.d_in}, but the source of {settings.name} has "
            f"width {source.d_in}; give the config that it was trained with"
        )

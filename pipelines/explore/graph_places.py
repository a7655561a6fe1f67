"""Which dictionaries a graph has at which hook points."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.config import Config
from pipelines.plan import plan
from pipelines.report.scores import goodness
from pipelines.report.settings_table import read_scored_row, score_numbers
from pipelines.steps.store import Store
from sae.dictionary import Dictionary, card_table
from sae.files import load
from sae.registry import UserError


def chosen_places(settings: Config, dictionaries: Sequence[str], store: Store) -> dict[str, Dictionary]:
    """The dictionaries by place: those given, else the best of the config's run at each hook point.

    A path alone stands for the place on the dictionary's card; ``PLACE=PATH`` says another. Raises `UserError` for a
    place that is given twice or not known, and where the run is not done.
    """
    if not dictionaries:
        return _best_of_run(settings, store)
    places = dict[str, Dictionary]()
    for given in dictionaries:
        place, equals, path = given.rpartition("=")
        d = load(path if equals else given)
        place = place.strip() if equals else place_of(d)
        if place is None:
            raise UserError(f"{given}: its card names no hook point; give it as HOOK={given}")
        if place in places:
            raise UserError(f"{given}: there is another dictionary at {place!r}; give one for each place")
        places[place] = d
    return places


def place_of(d: Dictionary) -> str | None:
    """The place of a dictionary according to its card; None if the card does not say."""
    source = card_table(d.card, "source")
    hook, target = source.get("hook"), source.get("target")
    if not isinstance(hook, str):
        return None
    return f"{hook} -> {target}" if isinstance(target, str) else hook


def _best_of_run(settings: Config, store: Store) -> dict[str, Dictionary]:
    report = plan(settings)[-1]
    if not store.done(report):
        raise UserError(
            f"dictionaries: the run of {settings.name} is not done in {store.root}; run `sae run` with the same config "
            "first, or give dictionaries"
        )
    made = {name: store.directory(step) for name, step in report.inputs.items()}
    best = dict[str, tuple[float, Path]]()
    for i in score_numbers(made):
        folder = made[f"train.{i}"] / "dictionary"
        step = report.inputs[f"train.{i}"]
        if not folder.is_dir() or "dictionary" not in step.config:
            continue  # a baseline
        value = goodness(read_scored_row(made[f"score.{i}"]).scores.get(settings.best_by, math.nan), settings.best_by)
        place = json.dumps([step.inputs["source"].config["source"].get(k) for k in ("hook", "target")])
        if place not in best or value > best[place][0]:
            best[place] = (value, folder)
    if not best:
        raise UserError(f"dictionaries: the run of {settings.name} has trained none; give dictionaries")
    found = [load(folder) for _, folder in best.values()]
    return {str(place_of(d)): d for d in found}

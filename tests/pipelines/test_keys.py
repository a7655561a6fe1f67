"""Step keys of all shipped configs are those of the list.

``python tests/pipelines/test_keys.py`` rewrites the list; say here what changed, and why.
Since the reorganisation: versions 5 to 7 of the stage `score` (`fvu_median` and `outlier_variance`; codes in blocks;
correlations of codes in float64, and assignments of any size), and with them the keys of all reports and comparisons,
whose inputs are scores; version 6 of the stage `report`, which compares hook points; version 2 of the stage `bench`,
which compares costs; the stage `model`, of the configs in `language/` alone; version 3 of the stage `refine`
(stagewise codes), and the encoders of the sharkey suites. Those of every other stage are the first ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from pipelines.config.config import read_config, read_table
from pipelines.config.shipped import SHIPPED, config_names
from pipelines.plan import plan

LIST = Path(__file__).parent / "keys_of_shipped_configs.json"
KNOWN: dict[str, tuple[int, str, str]] = json.loads(LIST.read_text())
"""``"NAME TIER COMMAND"`` -> number of steps, a hash of the names of all but the last, the name of the last."""
LOCAL = ("source.model=MODEL", "source.text=TEXT.txt")
"""What configs for a user's own model leave open."""


def tiers() -> list[tuple[str, str]]:
    every = {name: ["full", *read_table(SHIPPED / f"{name}.toml").get("tiers", {})] for name in config_names()}
    return [(name, tier) for name, names in every.items() for tier in names]


def names_of(name: str, tier: str, command: str) -> list[str]:
    """The names of the steps of one shipped config."""
    local = "model" not in read_table(SHIPPED / f"{name}.toml").get("source", {"model": ""}) and "local" in name
    overrides = (*LOCAL, *(["source.labels=LABELS.conllu"] if name == "probes-local" else [])) if local else ()
    overrides = LOCAL[1:] if name.startswith("language/") else overrides  # its model is trained
    narrow = patch("sae.toys.language.saved.TrainedModelConfig.copies", lambda settings: 1)
    if name == "language/wide-1l":
        overrides = (*overrides, "source.widening.of=MODEL")
    config = read_config(SHIPPED / f"{name}.toml", overrides, tier)
    # The content of files outside the project is not what is compared here.
    no_package = patch("sae.probing.sources.package_tables", lambda names: tuple(map(Path, names)))
    with no_package, narrow, patch("pipelines.plan.content_hash", lambda path, field: f"content of {field}"):
        return [step.name for step in plan(config, {"run": None, "bench": tier}[command])]


def entry(names: Sequence[str]) -> tuple[int, str, str]:
    return len(names), hashlib.sha256("\n".join(names[:-1]).encode()).hexdigest()[:16], names[-1]


@pytest.mark.parametrize(("name", "tier"), tiers())
def test_a_config_has_the_steps_that_it_had(name: str, tier: str):
    commands = [command for command in ("run", "bench") if f"{name} {tier} {command}" in KNOWN]
    assert commands, f"{name} is new: add {name!r} to the list with an empty entry and rewrite it"
    for command in commands:
        assert list(entry(names_of(name, tier, command))) == KNOWN[f"{name} {tier} {command}"], command


if __name__ == "__main__":
    lines = [f" {json.dumps(key)}: {json.dumps(entry(names_of(*key.split(' '))))}" for key in KNOWN]
    LIST.write_text("{\n" + ",\n".join(lines) + "\n}\n")

"""Step keys of all shipped configs are those of the list, which was made by the version before the reorganisation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.config.config import read_config, read_table
from pipelines.config.shipped import SHIPPED, config_names
from pipelines.plan import plan

KNOWN: dict[str, tuple[int, str, str]] = json.loads(
    (Path(__file__).parent / "keys_of_shipped_configs.json").read_text()
)
"""``"NAME TIER COMMAND"`` -> number of steps, a hash of the names of all but the last, the name of the last."""
LOCAL = ("source.model=MODEL", "source.text=TEXT.txt")
"""What configs for a user's own model leave open."""


def tiers() -> list[tuple[str, str]]:
    every = {name: ["full", *read_table(SHIPPED / f"{name}.toml").get("tiers", {})] for name in config_names()}
    return [(name, tier) for name, names in every.items() for tier in names]


@pytest.mark.parametrize(("name", "tier"), tiers())
def test_a_config_has_the_steps_that_it_had(name: str, tier: str, monkeypatch: pytest.MonkeyPatch):
    # The content of files outside the project is not what is compared here.
    monkeypatch.setattr("pipelines.plan._content_hash", lambda path, field: f"content of {field}")
    local = "model" not in read_table(SHIPPED / f"{name}.toml").get("source", {"model": ""}) and "local" in name
    overrides = (*LOCAL, *(["source.labels=LABELS.conllu"] if name == "probes-local" else [])) if local else ()
    config = read_config(SHIPPED / f"{name}.toml", overrides, tier)
    commands = {"run": None, "bench": tier}
    known = {command: KNOWN[f"{name} {tier} {command}"] for command in commands if f"{name} {tier} {command}" in KNOWN}
    assert known, f"{name} is new: add it to the list, from `sae plan`"
    for command, (n_steps, of_all, page) in known.items():
        names = [step.name for step in plan(config, commands[command])]
        assert len(names) == n_steps and names[-1] == page, command
        assert hashlib.sha256("\n".join(names[:-1]).encode()).hexdigest()[:16] == of_all, command

"""Further destinations of training logs besides ``log.jsonl``: trackio and wandb, imported only when configured."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from sae.registry import UserError


def check_sinks(names: Sequence[str]) -> None:
    """Checks that every sink is installed. Raises `UserError` naming the first that is not."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"runtime.sinks = {list(names)}: {name!r} is not installed; pip install {name}, or leave it out"
            )


class Sinks:
    """One tracked run for all members trained together; values are named ``<member>/<name>``."""

    def __init__(self, names: Sequence[str], group: str, members: Sequence[str], config: Mapping[str, Any]) -> None:
        self.members = members
        self.runs = [
            importlib.import_module(name).init(project="sae", name=group, config=dict(config)) for name in names
        ]

    def log(self, step: int, records: Sequence[Mapping[str, float | int]]) -> None:
        """Sends the values of one training step, one record per member."""
        figures = {f"{member}/{k}": v for member, r in zip(self.members, records, strict=True) for k, v in r.items()}
        for run in self.runs:
            run.log(figures, step=step)

    def close(self) -> None:
        for run in self.runs:
            run.finish()

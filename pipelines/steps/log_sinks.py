"""Where training logs go besides ``log.jsonl``: trackio or wandb, imported only where a user asks for them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from sae.registry import UserError


def check_sinks(names: Sequence[str]) -> None:
    """A ``ValueError`` of one line names a sink that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"runtime.sinks: {name!r} is not installed; pip install {name}, or leave it out")


class Sinks:
    """One tracked run for a whole stack: a figure of a member is called ``<member>/<figure>``."""

    def __init__(self, names: Sequence[str], group: str, members: Sequence[str], config: Mapping[str, Any]) -> None:
        self.members = members
        self.runs = [
            importlib.import_module(name).init(project="sae", name=group, config=dict(config)) for name in names
        ]

    def log(self, step: int, records: Sequence[Mapping[str, float | int]]) -> None:
        """Sends the figures of one step, one record a member."""
        figures = {f"{member}/{k}": v for member, r in zip(self.members, records, strict=True) for k, v in r.items()}
        for run in self.runs:
            run.log(figures, step=step)

    def close(self) -> None:
        for run in self.runs:
            run.finish()

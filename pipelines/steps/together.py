"""What the first process of a run tells the others: which steps all of them work on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.steps.step import Runtime, Step

TOGETHER = frozenset({"train", "score"})
"""The stages that all processes of a run work on; the first does the others alone."""


class SharedWork(NamedTuple):
    """Steps that all processes work on."""

    stage: str
    """Their stage."""
    group: str
    """The name of their scratch folder."""
    steps: Sequence[str]
    """Their names."""


def tell_others(runtime: Runtime, stage: str, group: str, steps: Sequence[Step]) -> None:
    """Has the other processes work on a stage, where it is one for all of them."""
    if stage in TOGETHER:
        runtime.processes.tell(json.dumps(SharedWork(stage, group, [step.name for step in steps])))


def tell_end(runtime: Runtime) -> None:
    """Tells the other processes that the run has come to its end."""
    runtime.processes.tell(json.dumps(None))


def next_work(runtime: Runtime) -> SharedWork | None:
    """What the first process tells next, in any other; None at the end of the run."""
    message = json.loads(runtime.processes.tell(""))
    return None if message is None else SharedWork(*message)

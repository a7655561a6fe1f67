"""What the processes of a run do that are not the first: the stages that all processes work on, when they are told to.

The first process runs the plan as it would alone. Before a stage of :data:`TOGETHER` it tells the others which steps
are to be done, and they run the same stage on the same steps; what is not such a stage it does alone, while they wait.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from pipelines.plan import STAGES
from pipelines.steps.step import Job, Runtime, Step
from pipelines.steps.stopping import asked_to_stop, stoppable
from pipelines.steps.store import Store

TOGETHER = frozenset({"train", "score"})
"""The stages that all processes of a run work on."""


def tell_others(runtime: Runtime, stage: str, group: str, steps: Sequence[Step]) -> None:
    """Has the other processes work on a stage, where it is one for all of them."""
    if stage in TOGETHER:
        message = {"stage": stage, "group": group, "steps": [step.name for step in steps]}
        runtime.processes.tell(json.dumps(message))


def tell_end(runtime: Runtime) -> None:
    """Ends :func:`follow` in the other processes."""
    runtime.processes.tell(json.dumps(None))


def follow(steps: Sequence[Step], store: Store, runtime: Runtime) -> None:
    """Works on what the first process tells, until it has come to the end of the plan."""
    of_name = {step.name: step for step in steps}
    watched = replace(runtime, stopping=lambda: asked_to_stop() != "")
    with stoppable():
        while (told := json.loads(runtime.processes.tell(""))) is not None:
            jobs = [job_of(of_name[name], store) for name in told["steps"]]
            for _ in STAGES[told["stage"]].run(jobs, store.scratch(told["group"]), watched, _silent):
                pass


def job_of(step: Step, store: Store) -> Job:
    """A step with its directories."""
    return Job(step, {name: store.directory(source) for name, source in step.inputs.items()}, store.partial(step))


def _silent(done: int, total: int, unit: str, **figures: float) -> None:
    """Progress of a process that nobody watches."""

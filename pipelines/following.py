"""What the processes of a run do that are not the first: the stages that all work on, when the first says so.

The first process runs the plan as it would alone. Before a stage of :data:`~pipelines.steps.together.TOGETHER` it tells
the others which steps are to be done, and they run the same stage on the same steps; what is not such a stage it does
alone, while they wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.plan import STAGES
from pipelines.steps.step import Runtime, Step
from pipelines.steps.stopping import asked_to_stop, stoppable
from pipelines.steps.store import Store
from pipelines.steps.together import next_work


def follow(steps: Sequence[Step], store: Store, runtime: Runtime) -> None:
    """Works on what the first process asks for, until it has come to the end of the plan."""
    of_name = {step.name: step for step in steps}
    watched = replace(runtime, stopping=lambda: asked_to_stop() != "")
    with stoppable():
        while (work := next_work(runtime)) is not None:
            jobs = [store.job(of_name[name]) for name in work.steps]
            for _ in STAGES[work.stage].run(jobs, store.scratch(work.group), watched, _silent):
                pass


def _silent(done: int, total: int, unit: str, **figures: float) -> None:
    """Progress of a process that nobody watches."""

"""One run by several workers: processes of this machine, jobs of a Slurm cluster, or tasks of a Ray cluster.

The folder of steps is the queue: a worker takes a group of steps that nobody works on, and waits for what others do.
An engine starts the workers of a run, sees to them, and ends them.
"""

from __future__ import annotations


class WorkersFailed(Exception):
    """Steps that workers could not do, in one line; the tracebacks are in the logs of the workers."""

"""Stage `train`: makes the dictionaries of a source, by gradient descent or by a classical method.

Dictionaries of one architecture and shape are trained together as a stack, and the stacks of one source in the same
pass over the data. The loop is in :mod:`sae.training.loop`; this module adds logs, checkpoints and saving. A checkpoint
identifies its members by the keys of their steps, so that a run that was killed while saving its dictionaries, or
whose sweep has changed since, continues with those that are missing.

Several processes divide the stacks (:mod:`sae.training.division`); all of them run this stage, and the first writes
logs and dictionaries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.steps.checkpoint import Facts, Timing, find_checkpoint, write_checkpoint
from pipelines.steps.cost import Cost, metered
from pipelines.steps.log_sinks import Sinks
from pipelines.steps.source_steps import left_out, open_step, open_steps
from pipelines.steps.step import Job, Runtime, StageProgress
from pipelines.steps.stopping import Stopped
from pipelines.steps.training_log import Log
from sae.architecture import DictionaryConfig
from sae.baseline import BaselineConfig
from sae.dictionary import Dictionary
from sae.files import save
from sae.numerics import memory
from sae.numerics.memory import memory_of
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError, config_class
from sae.source import Source
from sae.training.config import TrainConfig
from sae.training.loop import divide, train_side_by_side
from sae.training.state import Member, State

VERSION = 4


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``dictionary/`` and ``cost.json`` into every job's directory, and ``log.jsonl`` for gradient descent."""
    baselines = [job for job in jobs if "method" in job.step.config]
    for i, job in enumerate(baselines if runtime.processes.is_first else ()):
        progress(i, len(baselines), "dictionaries")
        with runtime.spans("baselines"):
            _fit(job, runtime)
        yield job
    trained = [job for job in jobs if "method" not in job.step.config]
    if not trained:
        return
    runtime.processes.wait_for_first()
    checkpoint, damaged = find_checkpoint(scratch)
    if damaged and checkpoint is None:
        runtime.note(f"{damaged[0]}: damaged or without a checksum; training starts again from its first step")
    started = [] if checkpoint is None else [key for stack in checkpoint.facts.members for key in stack]
    for part in ([j for j in trained if j.step.key in started], [j for j in trained if j.step.key not in started]):
        for stacks in _passes(part, runtime):
            held = memory.held_bytes(runtime.device)
            for job, seconds in _train(stacks, scratch, runtime, progress):
                peak = runtime.processes.total(float(max(0, memory.peak_bytes(runtime.device) - held)))
                if runtime.processes.is_first:
                    _write_cost(job, stacks, seconds, round(peak))
                    yield job


def _fit(job: Job, runtime: Runtime) -> None:
    """Fits one classical method."""
    settings = job.step.config["method"]
    method = config_class("baselines", settings["kind"])(**settings)
    assert isinstance(method, BaselineConfig)
    source = open_step(job.step.inputs["source"], job.inputs["source"], runtime.device)
    with metered(runtime.device) as cost:
        d = method.fit(source, job.step.config["seed"])
    cost.write(job.out)
    _save(d, job)


def _passes(jobs: Sequence[Job], runtime: Runtime) -> Iterator[list[list[Job]]]:
    """Splits the jobs into passes over the data, each a list of stacks that are trained together.

    A pass holds as many stacks as fit into half of the memory with their optimizer moments; a stack that is too large
    on its own is divided. Results do not depend on the division. Each process has its share of the latents or members.
    """
    if not jobs:
        return
    available, used = _memory_of_all(runtime) // 2, 0
    stacks: list[list[Job]] = []
    widths = {job.inputs["source"]: source.d_in for job, source in zip(jobs, _sources(jobs, "cpu"), strict=True)}
    for stack in _stacks(jobs):
        size = 3 * 2 * 4 * widths[stack[0].inputs["source"]] * _member(stack[0])[0].n_latents
        for job in stack:
            if used + size > available and stacks:
                yield stacks
                stacks, used = [], 0
            if not stacks or not _stackable(stacks[-1][0], job):
                stacks.append([])
            stacks[-1].append(job)
            used += size
    yield stacks


def _memory_of_all(runtime: Runtime) -> int:
    """The memory of the devices of all processes; those on one machine's CPU share its memory."""
    own = memory_of(runtime.device)
    on_this_machine = 1 if runtime.device.startswith("cuda") else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return round(runtime.processes.total(float(own // on_this_machine)))


def _sources(jobs: Sequence[Job], device: str, processes: Processes = ALONE) -> list[Source]:
    """The source of every job, each opened once, to be read by the processes together."""
    steps = {job.inputs["source"]: job.step.inputs["source"] for job in jobs}
    opened = open_steps([(step, directory) for directory, step in steps.items()], device)
    of_directory = dict(zip(steps, opened, strict=True))
    for source in opened:
        source.processes = processes
    return [of_directory[job.inputs["source"]] for job in jobs]


def _stacks(jobs: Sequence[Job]) -> list[list[Job]]:
    """Groups the jobs into stacks: dictionaries of one architecture and shape."""
    stacks: list[list[Job]] = []
    for job in jobs:
        stack = next((stack for stack in stacks if _stackable(stack[0], job)), None)
        if stack is None:
            stacks.append([job])
        else:
            stack.append(job)
    return stacks


def _stackable(a: Job, b: Job) -> bool:
    """Whether two dictionaries of one source differ at most in fields in which members of a stack may differ, and in
    the seed."""
    if a.inputs["source"] != b.inputs["source"]:
        return False
    one, other = (_member(job)[0] for job in (a, b))
    free = set(one.member_axes)
    return type(one) is type(other) and one.model_dump(exclude=free) == other.model_dump(exclude=free)


def _train(
    stacks: Sequence[Sequence[Job]], scratch: Path, runtime: Runtime, progress: StageProgress
) -> Iterator[tuple[Job, float]]:
    """Trains stacks in one pass over the data, from their checkpoint where there is one; yields each job with the
    seconds of the whole pass."""
    jobs = [job for stack in stacks for job in stack]
    config = TrainConfig(**jobs[0].step.config["train"])
    members, processes = [[_member(job) for job in stack] for stack in stacks], runtime.processes
    sources = _sources([stack[0] for stack in stacks], runtime.device, processes)
    divisions, keys = divide(members, processes), [[job.step.key for job in stack] for stack in stacks]
    checkpoint, _ = find_checkpoint(scratch)  # by now that of another pass, perhaps
    if checkpoint is not None and not checkpoint.holds(keys):
        checkpoint = None
    first_step, facts = (0, Facts(keys)) if checkpoint is None else (checkpoint.step, checkpoint.facts)
    resumes = checkpoint and [checkpoint.tensors(*stack) for stack in zip(keys, divisions, strict=True)]
    logs = [
        Log(job.out / "log.jsonl", first_step, facts.timing, runtime.note, facts.logs.get(job.step.key, ""))
        for job in (jobs if processes.is_first else ())
    ]
    sinks = Sinks(runtime.sinks if logs else (), jobs[0].step.group, [j.step.title for j in jobs], jobs[0].step.config)
    saved_at = time.monotonic()
    if forecast := sources[0].forecast((config.steps - first_step) * config.batch_size):
        runtime.note(forecast)
    training = train_side_by_side(
        members, sources, config, runtime.device, resumes, spans=runtime.spans, divisions=divisions
    )
    for states in training:
        step, is_stopping = states[0].step, processes.any(runtime.stopping())
        with runtime.spans("bookkeeping"):
            # Empty on resuming from the checkpoint of the last step, which is logged already.
            if all(state.logged_values for state in states):
                _record(states, jobs, logs, sinks, progress, sources[0].figures())
            is_due = time.monotonic() - saved_at >= runtime.checkpoint_seconds
            if step == config.steps or is_stopping or processes.any(is_due and processes.is_first):
                for log in logs:  # first, so that no checkpoint outlives the lines before it
                    log.sync()
                hashes = {job.step.key: log.digest.hexdigest() for job, log in zip(jobs, logs, strict=False)}
                timing = logs[0].last if logs else Timing()
                write_checkpoint(scratch, states, Facts(keys, timing, hashes), processes)
                saved_at = time.monotonic()
        if is_stopping and step < config.steps:
            raise Stopped(f"at step {step}")
        if step == config.steps:
            seconds = logs[0].last.seconds if logs else 0.0
            for job, dictionary in zip(jobs, _dictionaries(states), strict=True):
                if dictionary is not None:
                    _save(dictionary, job)
                yield job, seconds
    sinks.close()


def _dictionaries(states: Sequence[State]) -> Iterator[Dictionary | None]:
    """The dictionaries of all stacks one after another; None for each on all processes but the first, which take part
    in putting them together."""
    for state in states:
        yield from state.iterate_dictionaries()


def _write_cost(job: Job, stacks: Sequence[Sequence[Job]], seconds: float, peak_bytes: int) -> None:
    """Writes one dictionary's share of the time and memory of its pass: in proportion to the number of its latents."""
    widths = {other.step.key: _member(other)[0].n_latents for stack in stacks for other in stack}
    share = widths[job.step.key] / sum(widths.values())
    Cost(share * seconds, round(share * peak_bytes)).write(job.out)


def _member(job: Job) -> Member:
    settings = job.step.config["dictionary"]
    dictionary = config_class("dictionaries", settings["kind"])(**settings)
    assert isinstance(dictionary, DictionaryConfig)
    return dictionary, job.step.config["seed"]


def _save(dictionary: Dictionary, job: Job) -> None:
    """Saves a dictionary with a card that records how it was made."""
    card = {**job.step.config, "source": job.step.inputs["source"].config["source"], "step": job.step.name}
    card |= left_out(job.inputs["source"])
    save(dictionary.with_card(**card), job.out / "dictionary")


def _record(
    states: Sequence[State],
    jobs: Sequence[Job],
    logs: Sequence[Log],
    sinks: Sinks,
    progress: StageProgress,
    figures: Mapping[str, float],
) -> None:
    """Logs a step and shows it, with further `figures` beside it."""
    records, step = [record for state in states for record in state.records()], states[0].step
    if not logs:
        return
    for job, record in zip(jobs, records, strict=True):
        if not abs(record["loss"]) < float("inf"):
            raise UserError(
                f"{job.step.title}: loss = {record['loss']} at step {step}: training diverged; "
                "lower train.lr, or check the source for extreme values"
            )
    for log, record in zip(logs, records, strict=True):
        log.write(record)
    sinks.log(step, records)
    mean = {name: sum(r[name] for r in records) / len(records) for name in ("loss", "l0", "dead")}
    progress(step, states[0].config.steps, "steps", **mean, **figures)

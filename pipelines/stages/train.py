"""Stage `train`: makes the dictionaries of a source, by gradient descent or by a classical method.

Dictionaries of one architecture and shape are trained together as a stack, and the stacks of one source in the same
pass over the data. The loop is in :mod:`sae.training.loop`; this module adds logs, checkpoints and saving. A checkpoint
identifies its members by the keys of their steps, so that a run that was killed while saving its dictionaries, or
whose sweep has changed since, continues with those that are missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from pipelines.steps.cost import Cost, metered
from pipelines.steps.log_sinks import Sinks
from pipelines.steps.source_steps import open_step
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.architecture import DictionaryConfig
from sae.baseline import BaselineConfig
from sae.dictionary import Dictionary
from sae.files import save
from sae.files.native import read_tensors
from sae.numerics import memory
from sae.numerics.atomic_write import write_atomically
from sae.numerics.memory import memory_of
from sae.registry import UserError, config_class
from sae.training.config import TrainConfig
from sae.training.loop import train_side_by_side
from sae.training.state import Member, State, select_members

VERSION = 4


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``dictionary/`` and ``cost.json`` into every job's directory, and ``log.jsonl`` for gradient descent."""
    baselines = [job for job in jobs if "method" in job.step.config]
    for i, job in enumerate(baselines):
        progress(i, len(baselines), "dictionaries")
        with runtime.spans("baselines"):
            _fit(job, runtime)
        yield job
    trained = [job for job in jobs if "method" not in job.step.config]
    checkpoint = scratch / "checkpoint.safetensors"
    started = [key for stack in _members_of(checkpoint) for key in stack]
    for part in ([j for j in trained if j.step.key in started], [j for j in trained if j.step.key not in started]):
        for stacks in _passes(part, runtime):
            held = memory.held_bytes(runtime.device)
            for job in _train(stacks, checkpoint, runtime, progress):
                _write_cost(job, stacks, max(0, memory.peak_bytes(runtime.device) - held))
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
    on its own is divided. Results do not depend on the division.
    """
    if not jobs:
        return
    available, used = memory_of(runtime.device) // 2, 0
    stacks: list[list[Job]] = []
    d_in = open_step(jobs[0].step.inputs["source"], jobs[0].inputs["source"], "cpu").d_in
    for stack in _stacks(jobs):
        size = 3 * 2 * 4 * d_in * _member(stack[0])[0].n_latents
        for job in stack:
            if used + size > available and stacks:
                yield stacks
                stacks, used = [], 0
            if not stacks or not _stackable(stacks[-1][0], job):
                stacks.append([])
            stacks[-1].append(job)
            used += size
    yield stacks


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
    """Whether two dictionaries differ at most in fields in which members of a stack may differ, and in the seed."""
    one, other = (_member(job)[0] for job in (a, b))
    free = set(one.member_axes)
    return type(one) is type(other) and one.model_dump(exclude=free) == other.model_dump(exclude=free)


def _train(
    stacks: Sequence[Sequence[Job]], checkpoint: Path, runtime: Runtime, progress: StageProgress
) -> Iterator[Job]:
    """Trains stacks in one pass over the data, from their checkpoint where there is one."""
    jobs = [job for stack in stacks for job in stack]
    config = TrainConfig(**jobs[0].step.config["train"])
    source = open_step(jobs[0].step.inputs["source"], jobs[0].inputs["source"], runtime.device)
    resumes = _resume(checkpoint, stacks)
    first_step = 0 if resumes is None else int(resumes[0]["step"])
    logs = [Log(job.out / "log.jsonl", up_to=first_step) for job in jobs]
    sinks = Sinks(runtime.sinks, jobs[0].step.group, [job.step.title for job in jobs], jobs[0].step.config)
    saved_at = time.monotonic()
    members = [[_member(job) for job in stack] for stack in stacks]
    for states in train_side_by_side(members, source, config, runtime.device, resumes, spans=runtime.spans):
        step = states[0].step
        with runtime.spans("bookkeeping"):
            # Empty on resuming from the checkpoint of the last step, which is logged already.
            if all(state.logged_values for state in states):
                _record(states, jobs, logs, sinks, progress)
            if step == config.steps or time.monotonic() - saved_at >= runtime.checkpoint_seconds:
                _checkpoint(states, stacks, checkpoint)
                saved_at = time.monotonic()
        if step == config.steps:
            dictionaries = [dictionary for state in states for dictionary in state.dictionaries()]
            for job, dictionary in zip(jobs, dictionaries, strict=True):
                _save(dictionary, job)
                yield job
    sinks.close()


def _write_cost(job: Job, stacks: Sequence[Sequence[Job]], peak_bytes: int) -> None:
    """Writes one dictionary's share of the time and memory of its pass: in proportion to the number of its latents."""
    widths = {other.step.key: _member(other)[0].n_latents for stack in stacks for other in stack}
    share = widths[job.step.key] / sum(widths.values())
    seconds = _lines(job.out / "log.jsonl")[-1]["seconds"]
    Cost(share * seconds, round(share * peak_bytes)).write(job.out)


def _member(job: Job) -> Member:
    settings = job.step.config["dictionary"]
    dictionary = config_class("dictionaries", settings["kind"])(**settings)
    assert isinstance(dictionary, DictionaryConfig)
    return dictionary, job.step.config["seed"]


def _save(dictionary: Dictionary, job: Job) -> None:
    """Saves a dictionary with a card that records how it was made."""
    card = {**job.step.config, "source": job.step.inputs["source"].config["source"], "step": job.step.name}
    save(dictionary.with_card(**card), job.out / "dictionary")


def _record(
    states: Sequence[State], jobs: Sequence[Job], logs: Sequence[Log], sinks: Sinks, progress: StageProgress
) -> None:
    records, step = [record for state in states for record in state.records()], states[0].step
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
    progress(step, states[0].config.steps, "steps", **mean)


class Log:
    """Training log of one member: one JSON object per line, with seconds of training and samples per second."""

    def __init__(self, file: Path, up_to: int) -> None:
        """Continues after the line of step `up_to`; lines that a killed run wrote after its checkpoint are dropped."""
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for line in _lines(file) if line["step"] <= up_to]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.seconds_before = lines[-1]["seconds"] if lines else 0.0
        self.samples_before = lines[-1]["samples"] if lines else 0
        self.start = time.monotonic()

    def write(self, record: Mapping[str, float | int]) -> None:
        elapsed = time.monotonic() - self.start
        rate = (record["samples"] - self.samples_before) / elapsed
        timing = {"seconds": round(self.seconds_before + elapsed, 3), "samples_per_s": round(rate, 1)}
        with self.file.open("a") as f:
            f.write(json.dumps({**record, **timing}) + "\n")


def _lines(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a log; the last line may be cut off."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def _checkpoint(states: Sequence[State], stacks: Sequence[Sequence[Job]], file: Path) -> None:
    tensors = {
        f"{i}.{name}": tensor.cpu().contiguous()
        for i, state in enumerate(states)
        for name, tensor in state.checkpoint().items()
    }
    members = [[job.step.key for job in stack] for stack in stacks]
    write_atomically(file, to_bytes(tensors, {"members": json.dumps(members)}))


def _members_of(checkpoint: Path) -> list[list[str]]:
    """The keys of the steps in a checkpoint, per stack in the order of its members; empty where it is missing or
    unreadable."""
    try:
        with safe_open(checkpoint, "pt") as f:
            return json.loads(f.metadata()["members"])
    except (FileNotFoundError, SafetensorError):
        return []


def _resume(checkpoint: Path, stacks: Sequence[Sequence[Job]]) -> list[dict[str, Tensor]] | None:
    """The tensors of these stacks in a checkpoint; None where it does not hold all of them."""
    where = {key: (i, j) for i, stack in enumerate(_members_of(checkpoint)) for j, key in enumerate(stack)}
    if not all(job.step.key in where for stack in stacks for job in stack):
        return None
    tensors, parts = read_tensors(checkpoint), list[dict[str, Tensor]]()
    for stack in stacks:
        places = [where[job.step.key] for job in stack]
        prefix = f"{places[0][0]}."
        of_stack = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        parts.append(select_members(of_stack, [j for _, j in places]))
    return parts

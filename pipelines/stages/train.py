"""Stage `train`: from a source to dictionaries, whether by gradient descent or by a classical method.

Dictionaries of one shape are trained together as a stack, and stacks on one source side by side in one pass over
the data. The loop lives in :mod:`sae.training.loop`; here are its log, its checkpoints and its end. A checkpoint
knows its
members by their steps, so that a run which was killed while it saved its dictionaries, or whose sweep was changed
in between, goes on with those that are missing.
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
from pipelines.steps.source_steps import open_source
from pipelines.steps.step import Job, Runtime, Tell
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


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``dictionary/`` and ``cost.json`` in every job's directory, and ``log.jsonl`` where there was a loss."""
    baselines = [job for job in jobs if "method" in job.step.config]
    for i, job in enumerate(baselines):
        tell(i, len(baselines), "dictionaries")
        with runtime.spans("baselines"):
            _fit(job, runtime)
        yield job
    trained = [job for job in jobs if "method" not in job.step.config]
    checkpoint = scratch / "checkpoint.safetensors"
    begun = [key for stack in _members_of(checkpoint) for key in stack]
    for part in ([j for j in trained if j.step.key in begun], [j for j in trained if j.step.key not in begun]):
        for sitting in _sittings(part, runtime):
            held = memory.held_bytes(runtime.device)
            for job in _train(sitting, checkpoint, runtime, tell):
                _share(job, sitting, max(0, memory.peak_bytes(runtime.device) - held))
                yield job


def _fit(job: Job, runtime: Runtime) -> None:
    """Fits one classical method."""
    settings = job.step.config["method"]
    method = config_class("sae.baselines", settings["kind"])(**settings)
    assert isinstance(method, BaselineConfig)
    source = open_source(job.inputs["source"], runtime.device)
    with metered(runtime.device) as cost:
        d = method.fit(source, job.step.config["seed"])
    cost.write(job.out)
    _save(d, job)


def _sittings(jobs: Sequence[Job], runtime: Runtime) -> Iterator[list[list[Job]]]:
    """Stacks to train side by side, as many at a time as half of the memory holds with their moments; a stack that
    is larger by itself is cut. Nothing that comes out depends on the cuts."""
    if not jobs:
        return
    room, used = memory_of(runtime.device) // 2, 0
    sitting: list[list[Job]] = []
    d_in = open_source(jobs[0].inputs["source"], "cpu").d_in
    for stack in _stacks(jobs):
        size = 3 * 2 * 4 * d_in * _member(stack[0])[0].n_latents
        for job in stack:
            if used + size > room and sitting:
                yield sitting
                sitting, used = [], 0
            if not sitting or not _alike(sitting[-1][0], job):
                sitting.append([])
            sitting[-1].append(job)
            used += size
    yield sitting


def _stacks(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs whose dictionaries make a stack: one shape, one architecture."""
    stacks: list[list[Job]] = []
    for job in jobs:
        own = next((stack for stack in stacks if _alike(stack[0], job)), None)
        if own is None:
            stacks.append([job])
        else:
            own.append(job)
    return stacks


def _alike(a: Job, b: Job) -> bool:
    one, other = (_member(job)[0] for job in (a, b))
    free = set(one.member_axes)
    return type(one) is type(other) and one.model_dump(exclude=free) == other.model_dump(exclude=free)


def _train(stacks: Sequence[Sequence[Job]], checkpoint: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Trains stacks side by side, from their checkpoint where there is one."""
    jobs = [job for stack in stacks for job in stack]
    config = TrainConfig(**jobs[0].step.config["train"])
    source = open_source(jobs[0].inputs["source"], runtime.device)
    resumes = _resume(checkpoint, stacks)
    begun = 0 if resumes is None else int(resumes[0]["step"])
    logs = [Log(job.out / "log.jsonl", up_to=begun) for job in jobs]
    sinks = Sinks(runtime.sinks, jobs[0].step.group, [job.step.title for job in jobs], jobs[0].step.config)
    saved_at = time.monotonic()
    members = [[_member(job) for job in stack] for stack in stacks]
    for states in train_side_by_side(members, source, config, runtime.device, resumes, spans=runtime.spans):
        step = states[0].step
        with runtime.spans("bookkeeping"):
            if all(
                state.logged_values for state in states
            ):  # none where the checkpoint is that of the end: all is logged
                _record(states, jobs, logs, sinks, tell)
            if step == config.steps or time.monotonic() - saved_at >= runtime.checkpoint_seconds:
                _checkpoint(states, stacks, checkpoint)
                saved_at = time.monotonic()
        if step == config.steps:
            dictionaries = [dictionary for state in states for dictionary in state.dictionaries()]
            for job, dictionary in zip(jobs, dictionaries, strict=True):
                _save(dictionary, job)
                yield job
    sinks.close()


def _share(job: Job, sitting: Sequence[Sequence[Job]], most: int) -> None:
    """What of its sitting's time and memory one dictionary took: as much as its width is of all of theirs."""
    widths = {other.step.key: _member(other)[0].n_latents for stack in sitting for other in stack}
    share = widths[job.step.key] / sum(widths.values())
    seconds = _lines(job.out / "log.jsonl")[-1]["seconds"]
    Cost(share * seconds, round(share * most)).write(job.out)


def _member(job: Job) -> Member:
    settings = job.step.config["dictionary"]
    dictionary = config_class("sae.dictionaries", settings["kind"])(**settings)
    assert isinstance(dictionary, DictionaryConfig)
    return dictionary, job.step.config["seed"]


def _save(dictionary: Dictionary, job: Job) -> None:
    """Saves a dictionary with a card that says what it was made of."""
    card = {**job.step.config, "source": job.step.inputs["source"].config["source"], "step": job.step.name}
    save(dictionary.with_card(**card), job.out / "dictionary")


def _record(states: Sequence[State], jobs: Sequence[Job], logs: Sequence[Log], sinks: Sinks, tell: Tell) -> None:
    records, step = [record for state in states for record in state.records()], states[0].step
    for job, record in zip(jobs, records, strict=True):
        if not abs(record["loss"]) < float("inf"):
            raise UserError(
                f"{job.step.title}: the loss is {record['loss']} at step {step}; "
                "lower train.lr, or check the source for extreme values"
            )
    for log, record in zip(logs, records, strict=True):
        log.write(record)
    sinks.log(step, records)
    mean = {name: sum(r[name] for r in records) / len(records) for name in ("loss", "l0", "dead")}
    tell(step, states[0].config.steps, "steps", **mean)


class Log:
    """The figures of one member, a JSON object a line, with the seconds of training and the rate."""

    def __init__(self, file: Path, up_to: int) -> None:
        """Goes on after the line of step `up_to`; what a killed run wrote beyond its checkpoint is dropped."""
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(file) if line["step"] <= up_to]
        file.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.seconds_before = kept[-1]["seconds"] if kept else 0.0
        self.samples_before = kept[-1]["samples"] if kept else 0
        self.began = time.monotonic()

    def write(self, record: Mapping[str, float | int]) -> None:
        here = time.monotonic() - self.began
        rate = (record["samples"] - self.samples_before) / here
        timing = {"seconds": round(self.seconds_before + here, 3), "samples_per_s": round(rate, 1)}
        with self.file.open("a") as f:
            f.write(json.dumps({**record, **timing}) + "\n")


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; the last one may have been cut off."""
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
    """The keys of the steps that a checkpoint holds, stack by stack in the order of their members; none where it is
    unreadable."""
    try:
        with safe_open(checkpoint, "pt") as f:
            return json.loads(f.metadata()["members"])
    except (FileNotFoundError, SafetensorError):
        return []


def _resume(checkpoint: Path, stacks: Sequence[Sequence[Job]]) -> list[dict[str, Tensor]] | None:
    """The parts of a checkpoint that belong to these stacks; None where they have not begun."""
    begun = _members_of(checkpoint)
    where = {key: (i, j) for i, stack in enumerate(begun) for j, key in enumerate(stack)}
    if not all(job.step.key in where for stack in stacks for job in stack):
        return None
    tensors, parts = read_tensors(checkpoint), list[dict[str, Tensor]]()
    for stack in stacks:
        places = [where[job.step.key] for job in stack]
        prefix = f"{places[0][0]}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        parts.append(select_members(own, [j for _, j in places]))
    return parts

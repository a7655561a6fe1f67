"""Stage `train`: from a source to dictionaries, whether by gradient descent or by a classical method.

Dictionaries of one shape are trained together as a stack. The loop lives in :mod:`sae.train`; here are its
log, its checkpoints and its end. A checkpoint knows its members by their steps, so that a run which was killed
while it saved its dictionaries, or whose sweep was changed in between, goes on with those that are missing.
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

from pipelines.sinks import Sinks
from pipelines.sources import open_source
from pipelines.step import Job, Runtime, Tell
from sae.dictionary import Dictionary
from sae.files import save
from sae.files.native import read_tensors, write_whole
from sae.kinds import config_class
from sae.method import MethodConfig
from sae.stack import DictionaryConfig
from sae.train import Member, State, TrainConfig, select_members, train

VERSION = 1


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``dictionary/`` in every job's directory, and ``log.jsonl`` where there was a loss to log."""
    baselines = [job for job in jobs if "method" in job.step.config]
    for i, job in enumerate(baselines):
        tell(i, len(baselines), "dictionaries")
        _fit(job, runtime)
        yield job
    stack = [job for job in jobs if "method" not in job.step.config]
    checkpoint = scratch / "checkpoint.safetensors"
    begun = _members_of(checkpoint)
    for part in ([j for j in stack if j.step.key in begun], [j for j in stack if j.step.key not in begun]):
        if part:
            yield from _train(part, checkpoint, runtime, tell)


def _fit(job: Job, runtime: Runtime) -> None:
    """Fits one classical method."""
    settings = job.step.config["method"]
    method = config_class("sae.baselines", settings["kind"])(**settings)
    assert isinstance(method, MethodConfig)
    source = open_source(job.inputs["source"], runtime.device)
    _save(method.fit(source, job.step.config["seed"]), job)


def _train(jobs: Sequence[Job], checkpoint: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Trains one stack, from its checkpoint where there is one."""
    members = [_member(job) for job in jobs]
    config = TrainConfig(**jobs[0].step.config["train"])
    source = open_source(jobs[0].inputs["source"], runtime.device)
    resume = _resume(checkpoint, jobs)
    logs = [Log(job.out / "log.jsonl", up_to=0 if resume is None else int(resume["step"])) for job in jobs]
    sinks = Sinks(runtime.sinks, jobs[0].step.group, [job.step.title for job in jobs], jobs[0].step.config)
    saved_at = time.monotonic()
    for state in train(members, source, config, runtime.device, resume):
        if state.figures:  # none where the checkpoint is that of the end: then all is logged already
            _record(state, jobs, logs, sinks, tell)
        finished = state.step == config.steps
        if finished or time.monotonic() - saved_at >= runtime.checkpoint_seconds:
            _checkpoint(state, jobs, checkpoint)
            saved_at = time.monotonic()
        if finished:
            for job, dictionary in zip(jobs, state.dictionaries(), strict=True):
                _save(dictionary, job)
                yield job
    sinks.close()


def _member(job: Job) -> Member:
    settings = job.step.config["dictionary"]
    dictionary = config_class("sae.dictionaries", settings["kind"])(**settings)
    assert isinstance(dictionary, DictionaryConfig)
    return dictionary, job.step.config["seed"]


def _save(dictionary: Dictionary, job: Job) -> None:
    """Saves a dictionary with a card that says what it was made of."""
    card = {**job.step.config, "source": job.step.inputs["source"].config["source"], "step": job.step.name}
    save(dictionary.with_card(**card), job.out / "dictionary")


def _record(state: State, jobs: Sequence[Job], logs: Sequence[Log], sinks: Sinks, tell: Tell) -> None:
    records = state.records()
    for job, record in zip(jobs, records, strict=True):
        if not abs(record["loss"]) < float("inf"):
            raise ValueError(
                f"{job.step.title}: the loss is {record['loss']} at step {state.step}; "
                "lower train.lr, or check the source for extreme values"
            )
    for log, record in zip(logs, records, strict=True):
        log.write(record)
    sinks.log(state.step, records)
    mean = {name: sum(r[name] for r in records) / len(records) for name in ("loss", "l0", "dead")}
    tell(state.step, state.steps, "steps", **mean)


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


def _checkpoint(state: State, jobs: Sequence[Job], file: Path) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.checkpoint().items()}
    write_whole(file, to_bytes(tensors, {"members": json.dumps([job.step.key for job in jobs])}))


def _members_of(checkpoint: Path) -> list[str]:
    """The keys of the steps that a checkpoint holds, in the order of its members; none where it is unreadable."""
    try:
        with safe_open(checkpoint, "pt") as f:
            return json.loads(f.metadata()["members"])
    except (FileNotFoundError, SafetensorError):
        return []


def _resume(checkpoint: Path, jobs: Sequence[Job]) -> dict[str, Tensor] | None:
    """The part of a checkpoint that belongs to these jobs; None where they have not begun."""
    begun = _members_of(checkpoint)
    if not all(job.step.key in begun for job in jobs):
        return None
    return select_members(read_tensors(checkpoint), [begun.index(job.step.key) for job in jobs])

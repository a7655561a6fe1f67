"""Checkpoints of stacks in training, written by one process or by several, and continued by any number.

One process writes ``checkpoint.safetensors``. Of several, each writes the members and latents that it trains to a file
of its own; then the first writes ``checkpoint.json``, which lists them, so that a checkpoint is whole or absent. A
reader takes the members and latents that it needs from whatever files there are. Members are named by the keys of their
steps. (Not torch.distributed.checkpoint: its metadata are a pickle, and reading one executes what is in it.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from pipelines.steps.checksums import is_intact, write_checked
from sae.numerics.processes import Processes
from sae.training.division import Division
from sae.training.state import SHARED, State, has_latents

ONE_FILE = "checkpoint.safetensors"
LIST = "checkpoint.json"
MEMBERS, LATENTS = "members", "latents"
"""The names, behind the number of the stack, of the members and latents that are in a file of one process."""


class Timing(NamedTuple):
    """How long training took up to a step, and over how many samples."""

    seconds: float = 0.0
    samples: int = 0


@dataclass(frozen=True)
class Facts:
    """What is known of a checkpoint beside its tensors."""

    members: Sequence[Sequence[str]]
    """The keys of the steps of each stack, in the order of its members."""
    timing: Timing = field(default_factory=Timing)
    """How long training took."""
    logs: Mapping[str, str] = field(default_factory=dict[str, str])
    """The SHA-256 of the log of each step up to the checkpoint, by the step's key."""

    def as_text(self) -> dict[str, str]:
        """As metadata of a file."""
        facts = {"members": self.members, "timing": self.timing, "logs": self.logs}
        return {name: json.dumps(value) for name, value in facts.items()}

    @classmethod
    def of_text(cls, text: Mapping[str, str]) -> Facts:
        """From :meth:`as_text`; earlier versions wrote no logs."""
        return cls(json.loads(text["members"]), Timing(*json.loads(text["timing"])), json.loads(text.get("logs", "{}")))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found to be undamaged."""

    step: int
    """The step after which it was written."""
    facts: Facts
    """What is known of it."""
    files: Sequence[Path]
    """Its files, one for each process that wrote it."""

    def holds(self, keys: Sequence[Sequence[str]]) -> bool:
        """Whether it has all members of these stacks, given by the keys of their steps."""
        known = {key for stack in self.facts.members for key in stack}
        return all(key in known for stack in keys for key in stack)

    def tensors(self, keys: Sequence[str], division: Division) -> dict[str, Tensor]:
        """The state of a stack, whose members are given by the keys of their steps, with the members and latents of the
        division."""
        where = {key: (i, j) for i, stack in enumerate(self.facts.members) for j, key in enumerate(stack)}
        places = [where[keys[i]] for i in division.members]
        stack, wanted = places[0][0] if places else 0, [j for _, j in places]
        found: dict[str, Tensor] = {}
        for file in self.files:
            with safe_open(file, "pt") as f:
                _take(f, stack, wanted, division, found)
        return found


def _take(f: Any, stack: int, wanted: Sequence[int], division: Division, found: dict[str, Tensor]) -> None:
    """Adds to `found` what one file has of the wanted members and of the latents of the division."""
    prefix = f"{stack}."
    names = [name.removeprefix(prefix) for name in f.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a mapping)
    is_part = MEMBERS in names
    members = f.get_tensor(prefix + MEMBERS).tolist() if is_part else None
    to, of = _common(torch.tensor(wanted), None if members is None else torch.tensor(members))
    to_latents, of_latents = _common(division.latents, f.get_tensor(prefix + LATENTS) if is_part else None)
    if not len(to):
        return
    for name in names:
        if name in (MEMBERS, LATENTS):
            continue
        tensor = f.get_tensor(prefix + name)
        if name.startswith(SHARED):
            found[name] = tensor
        elif has_latents(name):
            shape = (len(wanted), len(division.latents), *tensor.shape[2:])
            into = found.setdefault(name, tensor.new_empty(shape))
            into[to[:, None], to_latents] = tensor[of[:, None], of_latents]
        else:
            into = found.setdefault(name, tensor.new_empty(len(wanted), *tensor.shape[1:]))
            into[to] = tensor[of]


def _common(wanted: Int[Tensor, " wanted"], there: Int[Tensor, " there"] | None) -> tuple[Tensor, Tensor]:
    """The places in `wanted` of what is there, and where it is there; None: everything is, in its order."""
    if there is None:
        return torch.arange(len(wanted)), wanted
    order = there.argsort()
    at = torch.searchsorted(there[order], wanted).clamp_max(len(there) - 1)
    is_there = there[order][at] == wanted
    return is_there.nonzero()[:, 0], order[at[is_there]]


def find_checkpoint(scratch: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest undamaged checkpoint in a folder, and the files that are damaged or have no checksum."""
    found, damaged = list[Checkpoint](), list[Path]()
    single, listed = scratch / ONE_FILE, scratch / LIST
    if single.exists():
        if is_intact(single):
            with safe_open(single, "pt") as f:
                step = int(f.get_tensor("0.step"))
                found.append(Checkpoint(step, Facts.of_text(f.metadata()), [single]))
        else:
            damaged.append(single)
    if listed.exists():
        content: dict[str, Any] = json.loads(listed.read_bytes()) if is_intact(listed) else {}
        files = [scratch / name for name in content.get("files", ())]
        bad = [file for file in files if not is_intact(file)] if content else [listed]
        damaged += bad
        if not bad:
            found.append(Checkpoint(content["step"], Facts.of_text(content["facts"]), files))
    return max(found, key=lambda checkpoint: checkpoint.step, default=None), damaged


def write_checkpoint(scratch: Path, states: Sequence[State], facts: Facts, processes: Processes) -> None:
    """Writes the states of all stacks; replaces the checkpoint that was there. All processes must call it."""
    if processes.size == 1:
        write_checked(scratch / ONE_FILE, to_bytes(_tensors(states), facts.as_text()))
        _remove(scratch, keep=[scratch / ONE_FILE])
        return
    step = states[0].step
    names = [f"checkpoint-{step}-{rank}-of-{processes.size}.safetensors" for rank in range(processes.size)]
    tensors = _tensors(states)
    for i, state in enumerate(states):
        tensors[f"{i}.{MEMBERS}"] = torch.tensor(state.division.members, dtype=torch.int64)
        tensors[f"{i}.{LATENTS}"] = state.division.latents
    write_checked(scratch / names[processes.rank], to_bytes(tensors))
    processes.wait_for_all()
    if processes.is_first:
        content = {"step": step, "files": names, "facts": facts.as_text()}
        write_checked(scratch / LIST, json.dumps(content).encode())
        _remove(scratch, keep=[scratch / LIST, *(scratch / name for name in names)])


def _tensors(states: Sequence[State]) -> dict[str, Tensor]:
    found, storages = dict[str, Tensor](), set[int]()
    for i, state in enumerate(states):
        for name, tensor in state.checkpoint().items():
            tensor = tensor.cpu().contiguous()
            # Stacks of one source share their whitening, and safetensors refuses tensors that share memory.
            storage = tensor.untyped_storage().data_ptr()
            found[f"{i}.{name}"] = tensor.clone() if storage in storages else tensor
            storages.add(storage)
    return found


def _remove(scratch: Path, keep: Sequence[Path]) -> None:
    """Removes the files of earlier checkpoints, each after the one that names it."""
    kept = {path for file in keep for path in (file, file.with_name(file.name + ".sha256"))}
    for pattern in (f"{LIST}*", f"{ONE_FILE}*", "checkpoint-*"):
        for file in scratch.glob(pattern):
            if file not in kept:
                file.unlink(missing_ok=True)

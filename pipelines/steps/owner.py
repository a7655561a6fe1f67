"""Which process owns a claim, and whether it still runs: known for processes of this machine, and of Linux only.

A process is told from a later one with the same number by the time at which it started. Containers of one machine have
processes with the same numbers, so the namespace of the numbers is part of the owner.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

ProcessState = Literal["gone", "running", "unknown"]
"""`unknown` are processes of other machines, those that are stopped, and all on systems other than Linux."""


@dataclass(frozen=True)
class Owner:
    """A process of some machine."""

    host: str
    """Name of the machine, for people."""
    machine: str
    """Identity of the machine since it booted, with the namespace of its process numbers; empty where not known."""
    pid: int
    """Process number."""
    started: int
    """When the process started, in ticks since the machine booted; 0 where not known."""

    def to_json(self, **more: object) -> bytes:
        """The owner as JSON, with further entries."""
        return json.dumps({**asdict(self), **more}).encode()


def owner_of(content: Any) -> Owner | None:
    """The owner in what `Owner.to_json` wrote, once parsed; None where it is damaged."""
    types = {"host": str, "machine": str, "pid": int, "started": int}
    entries = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    known = {name: entries.get(name) for name in types}
    return Owner(**cast(Any, known)) if {n: type(v) for n, v in known.items()} == types else None


def this_process() -> Owner:
    """The owner of what this process claims."""
    return _process(os.getpid())


@lru_cache(maxsize=2)
def _process(pid: int) -> Owner:  # by number, as a forked child has another
    return Owner(platform.node(), _machine(), pid, _facts(pid)[1])


def process_state(owner: Owner) -> ProcessState:
    """Whether the process of an owner still runs, without asking any other machine.

    A stopped process (Ctrl-Z, SIGSTOP) is `unknown`: it may never go on.
    """
    here = this_process()
    if not here.machine or owner.machine != here.machine:
        return "unknown"
    try:
        os.kill(owner.pid, 0)  # sends nothing; only on Linux, where the machine is known
    except ProcessLookupError:
        return "gone"
    except (PermissionError, OverflowError):  # of another user; no number of a process
        return "unknown"
    state, started = _facts(owner.pid)
    if not started:
        return "unknown"
    if state in "ZX" or started != owner.started:  # ended, its parent has not asked how; another with its number
        return "gone"
    return "unknown" if state in "Tt" else "running"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _facts(pid: int) -> tuple[str, int]:
    """State and start of a process of this machine; 0 for the start where they are not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = text.rpartition(")")[2].split()  # behind the name of the program, which may hold anything
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", 0

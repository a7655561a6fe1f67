"""Leases: a group of steps is worked on by one process at a time, of any machine that reaches the folder.

No lock of the operating system is used: on network file systems those are missing, or hold on one machine only. What
every file system has is that of several processes that make one file under one name, one succeeds.

**Claiming.** The owner of a claim touches its file every `HEARTBEAT_SECONDS`.

**Taking over.** A claim is abandoned if its owner is a process of this machine that has ended. Otherwise it may be
abandoned if it was last touched more than `LEASE_SECONDS` before a file that is touched now: both times come from the
clock of the file system, and the clocks of the machines are not asked. As some file systems take the time from the
machine that writes, the claim is then watched for two heartbeats, and is abandoned if it does not move. A process of
this machine that runs keeps its claim however late its heartbeat is.

An abandoned claim is neither removed nor replaced, but superseded by a file that is named by its token. One process can
make that file, and however long after its decision a slow one tries, it can supersede only the claim that it found
abandoned.

**Losing.** The heartbeat is a thread. A call in C that does not release Python's interpreter lock stops it for as long,
and so does a machine that sleeps or cannot reach the folder. The owner cannot prevent that it is superseded then, but
finds out: before it writes what others may be writing, it asks :meth:`Lease.check`, which reads the claims unless a
heartbeat has done so lately. Who supersedes a claim that moved in the last moment waits until its owner must have found
out. Each takeover makes the lease twice as long, up to `LONGEST_LEASE`, so that no group goes back and forth for ever
between machines on which one call takes too long.

What remains is a process that is stopped between a check and what it writes next, for longer than a lease. It could
add a line to the log of a step that another works on, or rename its folder. Where the other has hashed the file before,
the hashes in the manifest show it, and the step is refused as damaged.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipelines.steps.claims import (
    TEMPORARY,
    Claim,
    chain_of,
    claimed_names,
    make_claim,
    read_claim,
    remove,
    remove_strays,
)
from pipelines.steps.owner import ProcessState, process_state, this_process

HEARTBEAT_SECONDS = 5.0
"""Time between touches of a claim by its owner."""
LEASE_SECONDS = 30.0
"""A claim that was not touched for this time may be taken over."""
LONGEST_LEASE = 8
"""The most that takeovers lengthen a lease, in units of `LEASE_SECONDS`."""
_ours: dict[str, bool] = {}
"""Whether this process still holds a claim that it made, by token."""
_clocks: dict[Path, tuple[float, float]] = {}
"""By folder, when its file system was last asked for the time, and what its clock is ahead of `uptime`."""


class ClaimLost(BaseException):
    """The claim on the steps that this process works on was taken over by another, because it did not show for too
    long: nothing of them may be written any more. Not an `Exception`, so that no stage takes it for an error."""


def uptime() -> float:
    """Seconds on a clock that nobody sets and that, where the system has one, goes on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Lease:
    """A claim that this process holds until :meth:`release`, kept alive by a thread."""

    def __init__(self, name: Path, file: Path, token: str, since: float) -> None:
        self.name, self.file, self.token = name, file, token
        self._pid, self._lost, self._shown = os.getpid(), False, since
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name=f"claim {name.name}", daemon=True).start()

    def held(self, surely: bool = False) -> bool:
        """Whether the claim still counts. Unless `surely`, the file system is asked only where no heartbeat has done so
        lately, so that it costs next to nothing."""
        if not self._lost and (surely or uptime() - self._shown > 2 * HEARTBEAT_SECONDS):
            self._touch()
        return not self._lost

    def check(self, surely: bool = False) -> None:
        """Raises `ClaimLost` where the claim no longer counts; `surely` as in :meth:`held`."""
        if not self.held(surely):
            raise ClaimLost(f"taken over by another run, as this one did not show for more than {LEASE_SECONDS:.0f} s")

    def release(self) -> None:
        """Removes the claim, with those that it superseded; nothing where it no longer counts."""
        self._ended.set()
        if self._pid != os.getpid():  # a forked child that leaves the block of its parent
            return
        with suppress(OSError):  # what is left is found abandoned
            if self.held(surely=True):
                for claim in chain_of(self.name):  # the name is free once the first is gone
                    remove(claim.file)
        _ours[self.token] = False

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS) and self.held(surely=True):
            pass

    def _touch(self) -> None:
        """Touches the claim if it is still the last on its name. After a pause in which it may have been found
        abandoned, it counts only if it is still the last one heartbeat later."""
        asked = uptime()
        is_late = asked - self._shown > LEASE_SECONDS
        try:
            is_last = _is_last(self.name, self.token)
            if is_last:
                os.utime(self.file)  # to the time of the file system, not of this machine
            if is_last and is_late:
                time.sleep(HEARTBEAT_SECONDS)
                asked, is_last = uptime(), _is_last(self.name, self.token)
        except FileNotFoundError:
            is_last = False
        except OSError:  # cut off from the folder: others may take over once the lease is over
            self._lost = self._lost or is_late
            return
        if is_last:
            self._shown = asked
        else:
            self._lost = True


def take(name: Path) -> Lease | None:
    """Claims a name, such as ``.locks/GROUP``; None where another holds it.

    Takes two heartbeats where its owner may be gone, and no time else. Raises `OSError` where the folder cannot be
    written to.
    """
    chain = chain_of(name)
    last = chain[-1] if chain else None
    if last is not None and not _is_abandoned(last):
        return None
    token, taken = secrets.token_hex(8), None
    _ours[token] = True
    try:
        taken = _supersede(name, last, token)
        return taken
    finally:
        _ours[token] = taken is not None


def _supersede(name: Path, last: Claim | None, token: str) -> Lease | None:
    """Claims a name that is free or whose last claim is abandoned; None where another was faster."""
    longest = LONGEST_LEASE * LEASE_SECONDS
    lease = LEASE_SECONDS if last is None else min(2 * (last.lease or LEASE_SECONDS), longest)
    since = uptime()
    file = make_claim(name, last, token, lease, this_process())
    if file is None or last is None:
        return None if file is None else Lease(name, file, token, since)
    if not _is_last(name, token):  # the name was released before the file was made
        remove(file)
        return None
    if (now := read_claim(last.file)) is not None and now.beat != last.beat:
        time.sleep(2 * HEARTBEAT_SECONDS)  # the former owner lives, and finds out within this time
    return Lease(name, file, token, since)


def is_claimed(name: Path) -> bool:
    """Whether a process holds the claim on a name.

    Works in a folder that can only be read, where it takes two heartbeats if the owner may be gone.
    """
    chain = chain_of(name) if name.parent.is_dir() else []
    if not chain or (state := _owner_state(chain[-1])) == "gone":
        return False
    try:
        return state == "running" or not _is_late(chain[-1])
    except OSError:
        return _moves(chain[-1])


def tidy(folder: Path) -> list[Path]:
    """Removes what killed processes left that is no claim, and returns the names that are still claimed, by processes
    that run or not."""
    remove_strays(folder, _clock(folder) - 10 * LEASE_SECONDS)
    return claimed_names(folder)


def _is_last(name: Path, token: str) -> bool:
    return [claim.token for claim in chain_of(name)[-1:]] == [token]


def _is_abandoned(claim: Claim) -> bool:
    state = _owner_state(claim)
    return state == "gone" or (state == "unknown" and _is_late(claim) and not _moves(claim))


def _owner_state(claim: Claim) -> ProcessState:
    if not _ours.get(claim.token, True):  # made by this process, which failed to remove it
        return "gone"
    return "unknown" if claim.owner is None else process_state(claim.owner)


def _is_late(claim: Claim) -> bool:
    """Whether a claim was last touched more than a lease ago. One that was touched in the future is late too: the clock
    of the machine that touched it is ahead."""
    return abs(_clock(claim.file.parent) - claim.beat / 1e9) > (claim.lease or LEASE_SECONDS)


def _moves(claim: Claim) -> bool:
    """Whether a claim is touched or removed within two heartbeats."""
    time.sleep(2 * HEARTBEAT_SECONDS)
    later = read_claim(claim.file)
    return later is None or (later.token, later.beat) != (claim.token, claim.beat)


def _clock(folder: Path) -> float:
    """The time of the file system of a folder, in seconds; it is asked by making a file, at most once per lease."""
    asked, ahead = _clocks.get(folder, (float("-inf"), 0.0))
    if uptime() - asked > LEASE_SECONDS:
        probe = folder / f".{secrets.token_hex(8)}{TEMPORARY}"
        try:
            with probe.open("xb") as file:
                asked = uptime()
                ahead = os.fstat(file.fileno()).st_mtime - asked
        finally:
            remove(probe)
        _clocks[folder] = asked, ahead
    return uptime() + ahead

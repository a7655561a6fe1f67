"""Claims on groups of steps: one owner at a time on any file system, whatever ends the processes or stops them."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.steps import claims, lease, owner
from pipelines.steps.lease import ClaimLost, Lease, is_claimed, take, tidy
from pipelines.steps.store import Store
from sae.numerics import atomic_write

CHECKOUT = Path(__file__).parents[2]
ON_LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are known on Linux only")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.03)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.3)


@pytest.fixture
def name(tmp_path: Path) -> Path:
    return tmp_path / "train-0123"


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """All claims count as those of other machines, of whose processes nothing is known."""
    monkeypatch.setattr(lease, "process_state", lambda _: "unknown")


def taken(name: Path) -> Lease:
    claim = take(name)
    assert claim is not None
    return claim


def silence(claim: Lease) -> None:
    """Stops the heartbeat, as where the process is stopped."""
    vars(claim)["_ended"].set()
    time.sleep(3 * lease.HEARTBEAT_SECONDS)
    vars(claim)["_ended"] = threading.Event()


def age(name: Path, seconds: float = 100.0) -> None:
    """Makes the last claim look as though it had last been touched so long ago."""
    file = claims.chain_of(name)[-1].file
    status = file.stat()
    os.utime(file, (status.st_atime, status.st_mtime - seconds))


def files(name: Path) -> list[str]:
    return sorted(file.name for file in name.parent.iterdir())


def test_a_claim_is_exclusive_and_ends_with_its_release(name: Path):
    first = taken(name)
    assert take(name) is None and is_claimed(name) and first.held(surely=True)
    assert take(name.with_name("train-4567")) is not None
    first.release()
    assert not is_claimed(name) and "train-0123.claim" not in files(name)
    taken(name).release()


def test_of_many_threads_one_gets_the_claim(name: Path):
    barrier, got = threading.Barrier(8), list[Lease | None]()

    def work() -> None:
        barrier.wait()
        got.append(take(name))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and [claim is None for claim in got].count(False) == 1
    assert files(name) == ["train-0123.claim"]  # no temporary file is left


@pytest.mark.usefixtures("far_away")
def test_a_heartbeat_keeps_the_claim(name: Path):
    first = taken(name)
    until = time.monotonic() + 1.5 * lease.LEASE_SECONDS
    while time.monotonic() < until:
        assert take(name) is None
        time.sleep(0.01)
    assert first.held()
    first.release()


@pytest.mark.usefixtures("far_away")
def test_a_claim_that_is_not_touched_is_taken_over(name: Path):
    """The former owner finds out, stops, and touches nothing of the new one's."""
    first = taken(name)
    silence(first)
    age(name)
    second = taken(name)
    assert not first.held(surely=True) and second.held(surely=True)
    with pytest.raises(ClaimLost, match="taken over by another run"):
        first.check()
    first.release()
    assert second.held(surely=True) and take(name) is None
    second.release()
    assert files(name) == []


@pytest.mark.usefixtures("far_away")
def test_an_owner_that_ends_before_it_finds_out_removes_nothing(name: Path):
    first = taken(name)
    silence(first)
    age(name)
    second = taken(name)
    first.release()
    assert second.held(surely=True) and take(name) is None
    second.release()


@pytest.mark.usefixtures("far_away")
def test_a_heartbeat_finds_out_that_the_claim_was_taken_over(name: Path):
    first = taken(name)
    owner_ = owner.this_process()
    claims.make_claim(name, claims.chain_of(name)[-1], "0" * 16, 1.0, owner_)
    time.sleep(5 * lease.HEARTBEAT_SECONDS)
    assert not first.held()


@pytest.mark.usefixtures("far_away")
def test_an_owner_that_was_late_keeps_the_claim_if_nobody_wanted_it(name: Path):
    """A laptop that slept, with the only run on it."""
    first = taken(name)
    silence(first)
    vars(first)["_shown"] -= 100
    age(name)
    assert first.held() and take(name) is None
    first.release()


@pytest.mark.usefixtures("far_away")
def test_an_owner_that_is_cut_off_leaves_before_others_take_over(name: Path, monkeypatch: pytest.MonkeyPatch):
    first = taken(name)
    silence(first)

    def cut_off(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lease, "chain_of", cut_off)
    assert first.held(surely=True)  # for as long as the lease lasts
    vars(first)["_shown"] -= lease.LEASE_SECONDS
    assert not first.held()


@pytest.mark.usefixtures("far_away")
def test_who_takes_over_from_an_owner_that_woke_up_waits_until_it_knows(name: Path, monkeypatch: pytest.MonkeyPatch):
    first = taken(name)
    silence(first)
    age(name)
    make, waited = claims.make_claim, list[float]()

    def slow(*arguments: object) -> Path | None:
        assert first.held(surely=True)  # touches the claim that was just found abandoned
        return make(*arguments)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(lease, "make_claim", slow)
        patch.setattr(lease, "_moves", lambda _: False)
        patch.setattr(lease.time, "sleep", waited.append)
        second = taken(name)
    assert waited == [2 * lease.HEARTBEAT_SECONDS] and not first.held(surely=True)
    second.release()


@pytest.mark.usefixtures("far_away")
def test_a_slow_breaker_takes_nothing_from_the_new_owner(name: Path, monkeypatch: pytest.MonkeyPatch):
    """It finds a claim abandoned, sleeps while another takes over, or takes over and ends, and then goes on."""
    make = claims.make_claim
    for n_turns in (1, 2, 3):
        taken(name)
        age(name)
        later: list[Lease] = []

        def slow(*arguments: object, n_turns: int = n_turns, later: list[Lease] = later) -> Path | None:
            monkeypatch.setattr(lease, "make_claim", make)
            for turn in range(n_turns):
                if turn:
                    later[-1].release()
                later.append(taken(name))
            return make(*arguments)  # pyright: ignore[reportArgumentType]

        with monkeypatch.context():
            monkeypatch.setattr(lease, "_moves", lambda _: False)
            monkeypatch.setattr(lease, "make_claim", slow)
            assert take(name) is None
        assert later[-1].held(surely=True)
        later[-1].release()
        assert files(name) == []


@pytest.mark.usefixtures("far_away")
def test_of_eight_breakers_one_gets_the_claim(name: Path):
    for _ in range(2):
        silence(taken(name))
        age(name)
        barrier, got = threading.Barrier(8), list[Lease | None]()

        def work(barrier: threading.Barrier = barrier, got: list[Lease | None] = got) -> None:
            barrier.wait()
            got.append(take(name))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = [claim for claim in got if claim is not None]
        assert winner.held(surely=True)
        winner.release()
        assert files(name) == []


@pytest.mark.usefixtures("far_away")
def test_takeovers_make_the_lease_longer(name: Path, monkeypatch: pytest.MonkeyPatch):
    """Up to a limit. A group would go back and forth between machines on which one call takes longer than a lease."""
    monkeypatch.setattr(lease, "LONGEST_LEASE", 4)
    monkeypatch.setattr(lease, "_moves", lambda _: False)
    for n in (1, 2, 4, 4):
        claim = taken(name)
        assert claims.chain_of(name)[-1].lease == n * lease.LEASE_SECONDS
        silence(claim)
        age(name)


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_the_clock_of_this_machine_does_not_matter(name: Path, monkeypatch: pytest.MonkeyPatch, ahead: float):
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + ahead)
    monkeypatch.setattr(time, "time_ns", lambda: time.time_ns() + int(ahead * 1e9))
    first = taken(name)
    time.sleep(0.05)
    assert take(name) is None and is_claimed(name)
    first.release()
    silence(taken(name))
    age(name)
    assert not is_claimed(name)
    taken(name).release()


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_file_system_that_takes_the_time_of_who_writes(name: Path, ahead: float, monkeypatch: pytest.MonkeyPatch):
    """A machine whose clock is wrong does not lose its claims, and those that it left are taken over."""
    touch = os.utime
    monkeypatch.setattr(lease.os, "utime", lambda file: touch(file, (time.time() + ahead, time.time() + ahead)))
    first = taken(name)
    time.sleep(3 * lease.HEARTBEAT_SECONDS)
    assert take(name) is None and first.held()
    silence(first)
    taken(name).release()


@ON_LINUX
def test_a_claim_of_a_process_that_ended_is_free_at_once(name: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1000.0)
    program = f"""
import os
from pathlib import Path
from pipelines.steps import lease
assert lease.take(Path({str(name)!r})) is not None
os.kill(os.getpid(), 9)
"""
    child = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT)
    while not (name.with_name("train-0123.claim").exists() and child.poll() is not None):
        time.sleep(0.01)
    assert not is_claimed(name)
    taken(name).release()
    assert files(name) == []


@contextmanager
def asleep() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            yield child
        finally:
            child.kill()


@ON_LINUX
def test_what_is_known_of_a_process(monkeypatch: pytest.MonkeyPatch):
    here = owner.this_process()
    with asleep() as child:
        theirs = owner.Owner(here.host, here.machine, child.pid, vars(owner)["_facts"](child.pid)[1])
        assert owner.process_state(theirs) == "running"
        child.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 5
        while owner.process_state(theirs) == "running" and time.monotonic() < until:
            time.sleep(0.01)
        assert owner.process_state(theirs) == "unknown"
        child.send_signal(signal.SIGCONT)
        reused = owner.Owner(here.host, here.machine, child.pid, theirs.started - 1)
        assert owner.process_state(reused) == "gone"
        for other in ("", here.machine + "x"):  # a machine that is not known, another, or another container
            assert owner.process_state(owner.Owner(here.host, other, child.pid, theirs.started - 1)) == "unknown"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and its parent has not taken notice
        assert owner.process_state(theirs) == "gone"
    monkeypatch.setattr(owner.os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert owner.process_state(theirs) == "unknown"  # of another user


@ON_LINUX
def test_a_process_of_this_machine_that_runs_keeps_its_claim(name: Path):
    """However late its heartbeat is, as in a long call in C."""
    first = taken(name)
    silence(first)
    age(name)
    assert take(name) is None and is_claimed(name)
    first.release()


def test_a_claim_that_this_process_could_not_remove_is_free(name: Path, monkeypatch: pytest.MonkeyPatch):
    first = taken(name)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "remove", lambda _: None)
        first.release()
    assert files(name) == ["train-0123.claim"] and not is_claimed(name)
    taken(name).release()


def refuses_links(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_file_system_without_links(name: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims.os, "link", refuses_links)
    test_a_claim_is_exclusive_and_ends_with_its_release(name)
    for file in name.parent.iterdir():
        file.unlink()
    test_of_many_threads_one_gets_the_claim(name)


def test_a_server_that_says_that_the_file_exists_which_it_made(name: Path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def twice(*arguments: Path) -> None:
        link(*arguments)
        link(*arguments)

    monkeypatch.setattr(claims.os, "link", twice)
    assert taken(name).held(surely=True) and take(name) is None


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize(
    "junk", ["", "{", "[]", "null", '{"token": "../../x", "lease": 1}', '{"token": 3, "lease": "x"}']
)
def test_a_damaged_claim_holds_for_a_lease(name: Path, junk: str):
    """It may be one that is just being written, on a file system without links."""
    name.with_name("train-0123.claim").write_text(junk)
    assert take(name) is None and is_claimed(name)
    age(name)
    claim = taken(name)
    assert claim.held(surely=True) and take(name) is None
    claim.release()
    assert files(name) == []


def test_the_first_of_a_chain_that_names_itself(name: Path):
    entries = {"token": "0" * 16, "lease": 1.0}
    for file in ("train-0123.claim", f"train-0123.{'0' * 16}.claim"):
        name.with_name(file).write_text(json.dumps(entries))
    assert len(claims.chain_of(name)) == 1


def test_a_folder_in_which_nothing_can_be_written_says_so(name: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuses)
    with pytest.raises(PermissionError):
        take(name)
    monkeypatch.undo()
    taken(name).release()  # nothing is left of the failure


def test_a_claim_that_cannot_be_removed_raises_nothing(name: Path, monkeypatch: pytest.MonkeyPatch):
    """The error of the work would be hidden by one of the release."""

    def refuses(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    first = taken(name)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "remove", refuses)
        first.release()
    taken(name).release()


def test_what_killed_processes_left_is_removed(name: Path, monkeypatch: pytest.MonkeyPatch):
    """A successor of a claim that is gone, and temporary files; not those of now, and no claim that counts."""
    folder = name.parent
    (folder / f"train-4567.{'a' * 16}.claim").write_text("{}")
    (folder / ".0123.new").write_text("")
    (folder / ".4567.new").write_text("")
    os.utime(folder / ".0123.new", (1, 1))
    (folder / "train-89ab.lock").write_text("")  # of an earlier version
    first = taken(name)
    assert tidy(folder) == [name]
    assert files(name) == [".4567.new", "train-0123.claim", "train-89ab.lock"] and first.held(surely=True)


@ON_LINUX
def test_a_run_removes_the_claims_of_killed_runs(tmp_path: Path):
    store = Store(tmp_path)
    store.create()
    with asleep() as child:
        pass
    gone = owner.Owner(owner.this_process().host, owner.this_process().machine, child.pid, 1)
    claims.make_claim(tmp_path / ".locks" / "score-01", None, "0" * 16, 1000.0, gone)
    far = owner.Owner("far", "away", 1, 1)
    claims.make_claim(tmp_path / ".locks" / "score-02", None, "0" * 16, 1000.0, far)
    store.tidy()
    assert [file.name for file in (tmp_path / ".locks").iterdir()] == ["score-02.claim"]


def test_a_forked_child_leaves_the_claim_of_its_parent(name: Path, monkeypatch: pytest.MonkeyPatch):
    first = taken(name)
    with monkeypatch.context() as patch:
        patch.setattr(lease.os, "getpid", lambda: -1)
        first.release()
    assert is_claimed(name) and files(name) == ["train-0123.claim"]


def test_nothing_uses_locks_of_the_operating_system():
    for folder in ("sae", "pipelines"):
        for file in (CHECKOUT / folder).rglob("*.py"):
            assert not re.search(r"fcntl|filelock|flock|lockf|msvcrt", file.read_text(encoding="utf-8")), file


def test_names_of_temporary_files_differ_between_machines():
    """Two machines, or containers, have processes of one number; they replaced each other's temporary files."""
    name_of = vars(atomic_write)["_of_this_process"]
    assert name_of(7) == name_of(7)
    before = name_of(7)
    name_of.cache_clear()
    assert name_of(7) != before

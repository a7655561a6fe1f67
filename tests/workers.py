"""Workers that share a folder of steps and are killed, suspended or preempted at random:

    python -m tests.workers --kills 100 --machines 2

Four processes at a time do the steps of a small config, as processes of one machine or of several. Each that ends is
replaced, each that is suspended goes on after a while; when all steps are done, everything starts anew, until there
were enough. After each round the folder has to hold the bytes of an undisturbed run, and no claim. Exit code 1 where
it does not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.attack.children import Child, prepare_to_fork

HEARTBEAT, LEASE = 0.1, 1.0
"""Seconds, in place of those of the product."""
N_WORKERS = 4
TABLE: dict[str, Any] = {
    "name": "shared",
    "source": {"kind": "independent", "n_features": 16, "d_in": [6, 8], "probability": 0.1},
    "dictionary": {"kind": "relu", "n_latents": 16, "l1": [0.1, 0.5]},
    "train": {"seeds": [0, 1], "steps": 120, "batch_size": 32, "log_every": 10, "n_scale": 64},
    "baselines": {"kinds": ["random"]},
    "score": {"n_rows": 100, "metrics": ["reconstruction"]},
    "runtime": {"device": "cpu", "threads": 1, "checkpoint_seconds": 0},
}


def plain_run(out: Path) -> None:
    """Does all steps but the report."""
    from rich.console import Console

    from pipelines import runner
    from pipelines.config.config import parse
    from pipelines.plan import plan
    from pipelines.steps.progress import Board
    from pipelines.steps.store import Store

    config = parse(TABLE)
    console = Console(stderr=True, width=500)
    runner.run(plan(config)[:-1], Store(out), runner.execution(config.runtime), Board(console))


def worker(out: Path, machine: str, pause: float = 0.0) -> Callable[[], None]:
    """A run as a process of this machine, or of another with that name; training waits at each step that it logs."""

    def work() -> None:
        from pipelines.stages import train
        from pipelines.steps import lease, owner

        lease.HEARTBEAT_SECONDS, lease.LEASE_SECONDS = HEARTBEAT, LEASE
        if machine:
            vars(owner)["_machine"] = lambda: machine
        loop = train.train_side_by_side

        def slow(*arguments: Any, **settings: Any) -> Iterator[Any]:
            for states in loop(*arguments, **settings):
                time.sleep(pause)  # before training asks whether its claim counts, not between that and its writing
                yield states

        train.train_side_by_side = slow
        plain_run(out)

    return work


def hashes(out: Path) -> dict[str, str]:
    """What a run leaves, without the files that hold times."""
    timed = ("log.jsonl", "manifest.json", "cost.json", ".hashes.json")
    files = [file for file in out.rglob("*") if file.is_file() and file.name not in timed]
    return {file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def working_processes(out: Path) -> dict[int, str]:
    """The processes that are shown as working, each with a step."""
    from pipelines.config.config import parse
    from pipelines.plan import plan
    from pipelines.runner import standings
    from pipelines.steps.store import Store

    found = standings(plan(parse(TABLE))[:-1], Store(out))
    return {s.status.pid: s.step.name for s in found if s.state == "running" and s.status is not None}


def wrong_states(out: Path, dead: dict[int, float]) -> list[str]:
    """Steps that are shown as running although their process was killed longer ago than a lease."""
    patience = LEASE + 2 * HEARTBEAT + 1.0
    late = {pid for pid, at in dead.items() if time.monotonic() - at > patience}
    return [name for pid, name in working_processes(out).items() if pid in late]


class Round:
    """Workers on an empty folder, until all steps are done."""

    def __init__(self, out: Path, machines: int, chance: random.Random) -> None:
        self.out, self.machines, self.chance = out, machines, chance
        self.problems, self.dead, self.n, self.n_lost = list[str](), dict[int, float](), 0, 0
        self.asleep: dict[int, float] = {}
        """When which worker goes on."""
        out.mkdir()
        self.children = {i: self.start(i) for i in range(N_WORKERS)}

    def machine(self, i: int) -> str:
        return f"machine {i % self.machines}" if self.machines > 1 else ""

    def start(self, i: int) -> Child:
        pause = self.chance.random() * 0.02
        return Child(worker(self.out, self.machine(i), pause), self.out.parent / f"printed-{i}.txt")

    def do(self, how: str, most: int, longest: float) -> None:
        """Disturbs the workers at most so many times, `longest` seconds apart or less."""
        while self.children and len(self.problems) < 3:
            time.sleep(self.chance.random() * longest)
            self.problems += [f"{name} is running" for name in wrong_states(self.out, self.dead)]
            for i in [i for i, until in self.asleep.items() if time.monotonic() > until]:
                os.kill(self.children[i].pid, signal.SIGCONT)
                del self.asleep[i]
            i = self.chance.choice(list(self.children))
            ended = os.waitpid(self.children[i].pid, os.WNOHANG)
            if ended[0]:
                self.end(i, os.waitstatus_to_exitcode(ended[1]))
            elif self.n < most and len(self.asleep) < 2 and i not in self.asleep:
                self.n += 1
                vars(Round)[how](self, i)
        for child in self.children.values():
            child.kill()
        time.sleep(LEASE)  # a worker may have been killed after all steps were done
        last = Child(worker(self.out, self.machine(0)), self.out.parent / "last.txt").wait()
        self.problems += [f"the last run failed, {last.told()}"] if last.code else []
        for stray in self.out.glob(".locks/.*.new"):  # no claim, but what one leaves that was killed while claiming
            stray.unlink()
        self.problems += [f"{file} is left" for file in self.out.glob(".locks/*")]

    def end(self, i: int, code: int) -> None:
        self.asleep.pop(i, None)  # it ended just before it was to be suspended
        printed = self.children.pop(i).printed.read_text()
        self.n_lost += printed.count("taken over by another run")
        if code:
            self.problems.append(f"a worker ended with {code}: {printed[-2000:]}")

    def kills(self, i: int) -> None:
        self.children[i].kill()
        self.dead[self.children[i].pid] = time.monotonic()
        os.waitpid(self.children[i].pid, 0)
        self.children[i] = self.start(i)

    def preemptions(self, i: int) -> None:
        os.kill(self.children[i].pid, signal.SIGTERM)
        ended = self.children[i].wait(20)
        stopped = ended.code == 143 and "stopped by SIGTERM; the next run continues" in ended.output
        if not stopped and ended.code not in (0, -signal.SIGTERM):  # it was done, or has not begun
            self.problems.append(f"preempted, {ended.told()}")
        self.children[i] = self.start(i)

    def suspensions(self, i: int) -> None:
        if self.children[i].pid not in working_processes(self.out):
            self.n -= 1
            return
        os.kill(self.children[i].pid, signal.SIGSTOP)
        self.asleep[i] = time.monotonic() + LEASE + 2 * HEARTBEAT + self.chance.random()


def main() -> None:
    parser = argparse.ArgumentParser()
    for how in ("kills", "suspensions", "preemptions"):
        parser.add_argument(f"--{how}", type=int, default=0)
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=0.4, help="the longest time between two of them, in seconds")
    options = parser.parse_args()
    from pipelines.steps import lease

    lease.HEARTBEAT_SECONDS, lease.LEASE_SECONDS = HEARTBEAT, LEASE
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        plain_run(whole)
        expected = hashes(whole)
        for how, done in {"kills": "killed", "suspensions": "suspended", "preemptions": "preempted"}.items():
            n, n_rounds, n_lost = 0, 0, 0
            while n < vars(options)[how]:
                out = Path(place) / "out"
                one = Round(out, options.machines, chance)
                one.do(how, vars(options)[how] - n, options.longest)
                n, n_rounds, n_lost, found = n + one.n, n_rounds + 1, n_lost + one.n_lost, hashes(out)
                names = sorted(found.keys() | expected.keys())
                one.problems += [f"{name} differs" for name in names if found.get(name) != expected.get(name)]
                if one.problems:
                    sys.exit("\n".join(one.problems))
                shutil.rmtree(out)
            if n:
                print(f"{n} workers {done} in {n_rounds} rounds, {n_lost} claims lost; {len(expected)} files as alone")


if __name__ == "__main__":
    prepare_to_fork()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()

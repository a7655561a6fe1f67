"""The attacks: that a wrong result is noticed, and a few trials of each."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.attack.children import Child, Ended
from benchmarks.attack.configs import edited
from benchmarks.attack.events import at_event, die
from benchmarks.attack.mutations import mutated
from benchmarks.attack.no_space import WAYS, fill_disk, is_possible
from benchmarks.attack.runs import TOY, Whole, difference, results

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork processes")


def write_two(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).write_text(name)


def test_a_child_dies_before_the_chosen_change(tmp_path: Path):
    (tmp_path / "out").mkdir()
    before = at_event(1, tmp_path / "out", die)
    ended = Child(lambda: write_two(tmp_path / "out"), tmp_path / "printed", before).wait()
    assert ended.code == -9 and [f.name for f in (tmp_path / "out").iterdir()] == ["one"]


@pytest.mark.skipif(not is_possible(), reason="the system has no seccomp filters")
@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_refuses_and_lets_the_process_speak(tmp_path: Path, way: str):
    def work() -> None:
        fill_disk(way)
        with (tmp_path / "file").open("w") as f:
            f.write("content")
            f.flush()
            os.fsync(f.fileno())

    (tmp_path / "file").write_text("")  # whose opening creates nothing
    ended = Child(work, tmp_path / "printed").wait()
    assert f"[Errno {errno.ENOSPC}]" in ended.output and (tmp_path / "file").read_text() in ("", "content")
    assert ended.code != 0


@pytest.mark.parametrize(
    ("output", "code", "refusal"),
    [("train: done in 1 s\nsae: a: damaged\n", 2, "sae: a: damaged"), ("sae: a: damaged\n", 0, ""),
     ("Traceback (most recent call last):\nsae: a\n", 2, ""), ("sae: a\nmore\n", 2, ""), ("", 2, "")],
)  # fmt: skip
def test_only_one_line_with_the_right_code_is_a_refusal(output: str, code: int, refusal: str):
    assert Ended(code, output).refusal == refusal


def finished(out: Path, mcc: float, seconds: float) -> Path:
    """A folder with one finished step."""
    step = out / "score-0123456789abcdef"
    step.mkdir(parents=True)
    (step / "scores.json").write_text(json.dumps({"mcc": mcc}))
    manifest = {"files": {"scores.json": "x"}, "seconds": seconds, "sha256": str(seconds)}
    (step / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_results_are_compared_without_times(tmp_path: Path):
    whole = results(finished(tmp_path / "whole", 0.5, 1.0))
    assert not difference(results(finished(tmp_path / "same", 0.5, 2.0)), whole)
    other = finished(tmp_path / "other", 0.7, 1.0)
    assert "scores.json differs" in difference(results(other), whole)
    (tmp_path / "same" / "train-0123456789abcdef.partial").mkdir()
    (tmp_path / "same" / "train-0123456789abcdef.partial" / "log.jsonl").write_text("")
    assert "log.jsonl is left over" in difference(results(tmp_path / "same"), whole)
    (tmp_path / "other" / "score-0123456789abcdef" / "scores.json").unlink()
    assert "scores.json is missing" in difference(results(other), whole)


@pytest.mark.parametrize(
    ("ended", "named", "lost"),
    [(Ended(0, ""), "", "accepted as done, but"), (Ended(1, "Traceback"), "", "did not finish"),
     (Ended(2, "sae: /x/other: damaged"), "/x/file", "refused without naming the file")],
)  # fmt: skip
def test_a_wrong_number_does_not_survive(tmp_path: Path, ended: Ended, named: str, lost: str):
    whole = Whole(tmp_path, results(finished(tmp_path / "whole", 0.5, 1.0)))
    finished(whole.out, 0.7, 1.0)
    assert whole.lost_unless_refused(ended, [named]).startswith(lost)


@pytest.mark.parametrize("change", [lambda dice: mutated(TOY.encode(), dice), lambda dice: edited(TOY, dice)])
def test_mutations_differ_and_are_repeated_by_their_seed(change: Callable[[random.Random], object]):
    made = [change(random.Random(seed)) for seed in range(20)]
    assert made == [change(random.Random(seed)) for seed in range(20)] and len(set(map(str, made))) > 15


@pytest.mark.slow
def test_a_few_trials_of_each(tmp_path: Path):
    """The program itself, in a process of its own, because it forks."""
    program = [sys.executable, "-m", "benchmarks.attack", "--trials", "2", "--folder", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| 2 | 2 | 0 |") == 7 and not list(tmp_path.iterdir())

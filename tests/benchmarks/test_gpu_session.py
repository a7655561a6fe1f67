"""The command that proves a GPU: its session with units of our own, its units without running them, and all of it at
tiny sizes (slow: `python -m pytest -m slow tests/benchmarks/test_gpu_session.py`)."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu.cases import counted
from benchmarks.gpu.demo import compared
from benchmarks.gpu.session import measure_all
from benchmarks.gpu.steps import crossing
from benchmarks.gpu.units import PARTS, Unit, chosen, units
from benchmarks.isolated import ROOT
from benchmarks.lines import run as run_program
from sae.registry import UserError

HERE = "tests.benchmarks.gpu_units"


def run(file: Path, of: list[Unit], seconds: float = 60.0) -> list[dict[str, Any]]:
    return measure_all(of, seconds, file, lambda line: dict(line))


def test_failures_are_recorded_and_a_later_call_measures_them_again(tmp_path: Path):
    file, flag = tmp_path / "out" / "gpu.jsonl", tmp_path / "mended"
    some = [
        Unit("a", "works", f"{HERE}:works", 1, {"number": 3}),
        Unit("a", "fails", f"{HERE}:fails_until", 1, {"flag": str(flag)}),
        Unit("a", "ends the process", f"{HERE}:ends", 1),
        Unit("a", "works after it", f"{HERE}:works", 1, {"number": 4}),
        Unit("b", "says itself that it is wrong", f"{HERE}:wrong", 1),
    ]
    lines = run(file, some)
    assert [line["ok"] for line in lines] == [True, False, False, True, False]
    assert lines[0]["number"] == 3 and lines[3]["number"] == 4
    assert lines[1]["error"] == "ValueError: not mended" and lines[1]["at"].startswith("gpu_units.py:")
    assert lines[2]["error"] == "the process ended with exit code 7"
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines
    flag.touch()
    assert [(line["unit"], line["ok"]) for line in run(file, some[:2])] == [("fails", True)]


def test_after_a_kill_and_after_an_installation_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "gpu.jsonl"
    some = [
        Unit("a", "works", f"{HERE}:works", 1, {"number": 3}),
        Unit("a", "needs a package", f"{HERE}:needs_a_package", 1),
    ]
    assert [line["ok"] for line in run(file, some)] == [True, True]
    file.write_text(file.read_text() + '{"part": "a", "un')
    assert [line["unit"] for line in run(file, some)] == ["needs a package"], "skipped is not measured"
    assert "line 3 is no JSON" in capsys.readouterr().err
    assert json.loads(file.read_text().splitlines()[3])["unit"] == "needs a package", "a line of its own"


def test_a_failed_measurement_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    wrong = [Unit("steps", "is wrong", f"{HERE}:wrong", 1), Unit("steps", "skipped", f"{HERE}:needs_a_package", 1)]

    def of_ours(*_: object) -> list[Unit]:
        return wrong

    monkeypatch.setattr(program, "units", of_ours)
    monkeypatch.setattr(sys, "argv", ["gpu", "--small", "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        run_program(program.gpu)
    assert ended.value.code == 1 and "steps: 1 failed, 1 skipped" in capsys.readouterr().err


def test_a_unit_that_hangs_is_ended_and_time_that_is_up_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.gpu.session.START_SECONDS", 4.0)
    began = time.monotonic()
    some = [Unit("a", "hangs", f"{HERE}:hangs", 0.1), Unit("a", "long", f"{HERE}:works", 1e6, {"number": 1})]
    [line] = run(tmp_path / "gpu.jsonl", some, 30.0)
    assert line["error"].startswith("ended after 4 s") and time.monotonic() - began < 20


@pytest.mark.parametrize("small", [True, False])
def test_every_unit_can_be_called(small: bool):
    every = units("cuda", small, "folder")
    assert len({unit.key for unit in every}) == len(every) and {unit.part for unit in every} == set(PARTS)
    for unit in every:
        module, _, name = unit.function.partition(":")
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**unit.settings)
    assert {unit.part for unit in chosen(every, ["steps", "demo"])} == {"steps", "demo"}
    with pytest.raises(UserError, match="did you mean 'steps'"):
        chosen(every, ["step"])


def test_paths_take_the_same_time_where_their_ratio_is_one():
    assert crossing({0.01: 0.5, 0.03: 1.5, 0.1: 4.0}) == pytest.approx(0.02)
    assert crossing({0.01: 1.2, 0.03: 1.5}) == 0.01 and crossing({0.01: 0.2, 0.03: 0.5}) == 0.03


def test_scores_of_two_devices_are_compared_by_the_interval_over_seeds():
    def table(mcc: list[float]) -> dict[tuple[Any, ...], Any]:
        return {("relu",): {"mcc": mcc, "fvu": [0.1] * 3, "l0": [float("nan")] * 3}}

    same = compared(table([0.9, 0.91, 0.92]), table([0.91, 0.92, 0.915]))
    assert same["ok"] and 0 < same["mcc_in_half_widths"] < 1 and same["fvu_difference"] == 0
    assert not compared(table([0.9, 0.91, 0.92]), table([0.8, 0.81, 0.82]))["ok"]


def test_failed_cases_are_named_with_their_error(tmp_path: Path):
    report = tmp_path / "cases.xml"
    failed = "<testcase name='b'><failure message='assert 1 == 2\nmore'/></testcase>"
    cases = f"<testcase name='a'/>{failed}<testcase name='c'><skipped/></testcase>"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    expected = {"passed": 1, "failed": 1, "skipped": 1, "errors": {"b": "assert 1 == 2 more"}, "ok": False}
    assert counted(report) == expected


@pytest.mark.slow
def test_all_of_it_at_tiny_sizes(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and {line["part"] for line in lines} == set(PARTS), done.stderr[-2000:]
    assert all(line["ok"] for line in lines), [line for line in lines if not line["ok"]]

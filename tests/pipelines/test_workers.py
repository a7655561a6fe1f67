"""Workers that are killed, stopped, and those of submitit and Ray, as processes: seconds or minutes each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sae
from pipelines.engines import WorkersFailed
from pipelines.engines.choice import Workers
from pipelines.engines.slurm import SlurmEngine
from pipelines.engines.worker_state import WorkerState, read_states
from sae.registry import discovery

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]
Call = Callable[..., tuple[int, str, str]]
Results = Callable[[Path], dict[str, str]]
Given = dict[str, Any]


def sae_process(*arguments: object, **more: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        cwd=CHECKOUT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    )


@pytest.fixture
def longer(tiny: Given, tmp_path: Path) -> Path:
    """A config of eight sources, each with a dictionary that is trained for a second or more."""
    sources = "\n".join(
        f"[[source]]\nkind='independent'\nn_features=64\nd_in=32\nprobability=0.05\nseed={i}" for i in range(8)
    )
    file = tmp_path / "longer.toml"
    file.write_text(
        f"{sources}\n[dictionary]\nkind='relu'\nn_latents=128\nl1=2\n[train]\nsteps=800\nbatch_size=128\n"
        "n_scale=512\n[score]\nn_rows=400\nmetrics=['reconstruction']\n[runtime]\ndevice='cpu'\nthreads=1\n"
        "checkpoint_seconds=0.2\n"
    )
    return file


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return value


def states_of(out: Path) -> list[WorkerState]:
    folders = sorted((out / ".workers").glob("*"))
    return read_states(folders[-1]) if folders else []


def exists(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and " Z " not in stat.read_text()


def test_a_killed_worker_is_replaced(call: Call, longer: Path, tmp_path: Path, results: Results):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    assert call("run", longer, "--out", undisturbed)[0] == 0
    parent = sae_process("run", longer, "--out", out, "--workers", 2)
    first = until(lambda: [s for s in states_of(out) if s.name == "1" and "train" in s.title])[0]
    os.kill(first.pid, signal.SIGKILL)
    again = until(lambda: [s for s in states_of(out) if s.name == "1" and s.pid != first.pid])[0]
    assert again.engine == "local"
    told, warned = parent.communicate(timeout=120)
    assert parent.returncode == 0 and "report:" in told, warned
    assert results(out) == results(undisturbed)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_workers_end_with_the_command(longer: Path, tmp_path: Path, number: signal.Signals, code: int):
    out = tmp_path / "out"
    parent = sae_process("run", longer, "--out", out, "--workers", 2)
    until(lambda: sum("train" in s.title for s in states_of(out)) == 2)
    pids = [s.pid for s in states_of(out)]
    parent.send_signal(number)
    _, warned = parent.communicate(timeout=60)
    assert parent.returncode == code and "Traceback" not in warned
    assert number == signal.SIGKILL or "run the same command again to continue" in warned
    until(lambda: not any(exists(pid) for pid in pids), 30)


def test_sae_run_with_workers(tiny: Given, tmp_path: Path):
    done = sae.run(tiny, out=tmp_path / "out", workers=2)
    assert len(done.dictionaries()) == 7 and states_of(tmp_path / "out")
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from typing import Literal\nfrom sae.metric import MetricConfig\n\n\nclass BrokenConfig(MetricConfig):\n"
        '    """Fails."""\n\n    kind: Literal["broken"] = "broken"\n\n    def score(self, case):\n'
        '        raise KeyError("x")\n'
    )
    sae.load_plugin(broken)
    with pytest.raises(WorkersFailed, match=r"score: .*KeyError: 'x'.*log: "):
        sae.run(tiny, {"score.metrics": ["broken"]}, out=tmp_path / "out", workers=2)
    del discovery._REGISTERED["metrics"]["broken"]


def test_jobs_of_submitit(longer: Path, call: Call, tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install submitit")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert call("run", longer, "--out", undisturbed)[0] == 0
    engine = SlurmEngine({"time": "10min"}, cluster="local")
    tend, interrupted = engine.tend, list[int]()

    def interrupt_once(is_pending: bool) -> int:
        first = [s for s in states_of(out) if s.name == "1" and "train" in s.title]
        if first and not interrupted:  # as Slurm does before it takes a node away
            interrupted.append(first[0].pid)
            controller = engine._jobs[0].job_id
            [job] = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
            os.kill(int(job), signal.SIGUSR2)
        return tend(is_pending)

    monkeypatch.setattr(engine, "tend", interrupt_once)
    monkeypatch.setattr(Workers, "engine", lambda self: engine)
    code, told, warned = call("run", longer, "--out", out, "--workers", 2, "--on", "slurm", "--slurm", "time=10min")
    assert code == 0 and "report:" in told, warned
    assert results(out) == results(undisturbed) and interrupted
    first, second = states_of(out)
    assert first.pid != interrupted[0] and first.job and second.engine == "slurm"
    [folder] = (out / ".workers").iterdir()
    assert (folder / "1.log").is_file() and list((folder / "jobs").glob("*_submitted.pkl"))


def test_tasks_of_ray(longer: Path, call: Call, tmp_path: Path, results: Results):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    assert call("run", longer, "--out", undisturbed)[0] == 0
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        code, told, warned = call("run", longer, "--out", out, "--workers", 2, "--on", "ray")
        assert code == 0 and "report:" in told, warned
        assert results(out) == results(undisturbed)
        [folder] = (out / ".workers").iterdir()
        assert {s.engine for s in read_states(folder)} == {"ray"} and "train: relu" in (folder / "1.log").read_text()
    finally:
        ray.shutdown()

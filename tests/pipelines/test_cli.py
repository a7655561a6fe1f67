"""The command as a user types it: what it prints, what it leaves, and one line for every mistake."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import sae
from pipelines.config.config import read_config
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.steps.progress import Board
from pipelines.steps.store import Store

CHECKOUT = Path(__file__).parents[2]
Call = Callable[..., tuple[int, str, str]]
Results = Callable[[Path], dict[str, str]]


def sae_process(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own. A shell that runs tests in the background has them ignore Ctrl-C, and their
    children with them."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
        cwd=CHECKOUT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_from_a_config_to_a_report(call: Call, tiny_file: Path, tmp_path: Path):
    out = tmp_path / "out"
    code, told, _ = call("plan", tiny_file, "--out", out)
    assert code == 0 and "16 steps, 16 to do" in told and not out.exists()

    code, told, warned = call("run", tiny_file, "--out", out, "--set", "train.steps=30")
    assert code == 0 and "Traceback" not in warned
    assert told.rstrip().endswith(f"report: {out / 'tiny' / 'report.html'}")
    with (out / "tiny" / "scores.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert sorted(row["method"] for row in rows) == ["neurons", "random", "random", *["relu"] * 4]

    code, told, _ = call("status", tiny_file, "--out", out, "--set", "train.steps=30")
    assert code == 0 and "train     7 done" in told and "report:" in told
    code, told, _ = call("status", tiny_file, "--out", out)
    assert code == 0 and "train     3 done, 4 waiting" in sorted_counts(told)

    step = next(f for f in out.glob("train-*") if (f / "log.jsonl").exists())
    code, told, _ = call("show", step)
    assert code == 0 and all(word in told for word in ("relu", "n_latents", "seconds"))
    assert call("convert", step, tmp_path / "converted", "--format", "saelens")[0] == 0
    x = torch.randn(5, 8)
    torch.testing.assert_close(sae.load(tmp_path / "converted").encode(x), sae.load(step).encode(x))
    code, told, _ = call("show", tmp_path / "converted")
    assert code == 0 and "relu" in told
    code, told, _ = call("show", next(out.glob("score-*")))
    assert code == 0 and "explained_variance" in told
    assert call("show", out / "tiny")[0] == 0


def test_a_suggestion_with_its_evidence(call: Call, tiny_file: Path, tmp_path: Path):
    out = tmp_path / "out"
    arguments = ("suggest", tiny_file, "--targets", "1,2,4", "--out", out, "--set", "train.steps=30")
    code, told, _ = call(*arguments)
    assert code == 0 and "batchtopk, 16 latents" in told and told.rstrip().endswith(f"{out / 'tiny-suggestion'}")
    assert len(list(out.glob("train-*"))) == 6 and not list(out.glob("report-*"))
    assert call(*arguments)[:2] == (0, told) and len(list(out.glob("train-*"))) == 6


def sorted_counts(told: str) -> str:
    """The states of a line in alphabetical order: they are told in that of the plan."""
    lines = [line.split(maxsplit=1) for line in told.splitlines()]
    return "\n".join(f"{line[0]:9} {', '.join(sorted(line[1].split(', '), key=lambda w: w[2:]))}" for line in lines)


def test_two_commands_share_the_work(tiny_file: Path, tmp_path: Path, results: Results):
    change = "dictionary.n_latents=[16, 32]"
    runs = [sae_process("run", tiny_file, "--set", change, "--out", tmp_path / "shared") for _ in range(2)]
    ended = [(*run.communicate(timeout=120), run.returncode) for run in runs]
    assert [e[-1] for e in ended] == [0, 0], ended
    assert ended[0][0] == ended[1][0]  # the same table
    settings = read_config(tiny_file, [change])
    run(plan(settings)[:-1], Store(tmp_path / "alone"), execution(settings.runtime), Board(Console(quiet=True)))
    assert results(tmp_path / "shared") == results(tmp_path / "alone") != {}
    assert not list((tmp_path / "shared").glob("*.partial"))


def test_interrupted_from_the_keyboard(tiny_file: Path, tmp_path: Path):
    out = tmp_path / "out"
    process = sae_process("run", tiny_file, "--out", out, "--set", "train.steps=10000000")
    while process.poll() is None and not list(out.glob(".scratch/train-*/checkpoint.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, warned = process.communicate(timeout=60)
    assert process.returncode == 130 and "continue" in warned.splitlines()[-1] and "Traceback" not in warned


@pytest.fixture
def bad_file(tmp_path: Path) -> Callable[[str], Path]:
    """Files of activations, each broken in a way of its own."""

    def make(how: str) -> Path:
        x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        file = tmp_path / f"{how}.npy"
        if how == "nan":
            x[5, 1] = np.nan
        if how == "truncated":
            from safetensors.numpy import save_file

            file = file.with_suffix(".safetensors")
            save_file({"acts": x}, file)
            file.write_bytes(file.read_bytes()[:-9])
        elif how == "pickled":
            np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        elif how != "absent":
            np.save(file, x)
        return file

    return make


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", ["nan.npy", "NaN"]),
        ("truncated", ["truncated.safetensors", "not a valid"]),
        ("pickled", ["pickled.npy"]),
        ("absent", ["absent.npy", "does not exist"]),
    ],
)
def test_data_that_cannot_be_used(
    call: Call, tmp_path: Path, bad_file: Callable[[str], Path], how: str, words: list[str]
):
    config = tmp_path / "c.toml"
    config.write_text(
        f'name = "x"\n[source]\nkind = "tensor"\nfile = "{bad_file(how)}"\n'
        '[dictionary]\nkind = "relu"\nn_latents = 4\nl1 = 0.1\n[train]\nsteps = 5\n[runtime]\ndevice = "cpu"\n'
    )
    check_mistake(call("run", config, "--out", tmp_path / "out"), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "CONFIG", "--set", "train.stepz=3"], ["train.stepz", "did you mean 'steps'"]),
        (["run", "CONFIG", "--set", "dictionary.kind=rellu"], ["did you mean 'relu'"]),
        (["run", "CONFIG", "--set", "dictionary.l1=-1"], ["dictionary.l1 = -1"]),
        (["run", "CONFIG", "--set", "train.lr=1e17", "--out", "OUT"], ["loss = ", "train.lr"]),
        (["run", "CONFIG", "--set", "runtime.device=gpu9"], ["runtime.device"]),
        (["run", "CONFIG", "--set", "source.probability=0.9", "--set", "source.frequencies=zipf"], ["probabilit"]),
        (["run", "CONFIG", "--out", "CONFIG"], ["not writable", "--out"]),
        (["run", "nothing.toml"], ["nothing.toml"]),
        (["run"], ["config"]),
        (["runn", "CONFIG"], ["run"]),
        (["run", "CONFIG", "--sett", "x=1"], ["--set"]),
        (["suggest", "nothing.toml"], ["nothing.toml"]),
        (["suggest", "CONFIG", "--targets", "4;6"], ["--targets", "4,6,9,13"]),
        (["suggest", "CONFIG", "--targets", "4,6"], ["--targets", "three"]),
        (["suggest", "CONFIG", "--targets", "4,6,17"], ["k = 17", "n_latents = 16"]),
        (["suggest", "CONFIG", "--targets", "0,1,2"], ["dictionary.k = 0"]),
        (["suggest", "CONFIG", "--kind", "batchtop"], ["did you mean 'batchtopk'"]),
        (["suggest", "CONFIG", "--kind", "lasso"], ["--kind"]),
        (["show", "nowhere"], ["nowhere"]),
        (["convert", "nowhere", "elsewhere"], ["nowhere"]),
        (["convert", "nowhere", "elsewhere", "--format", "zip"], []),
    ],
)
def test_mistakes_are_told_in_one_line(
    call: Call, tiny_file: Path, tmp_path: Path, arguments: list[str], words: list[str]
):
    named = {"CONFIG": str(tiny_file), "OUT": str(tmp_path / "out")}
    check_mistake(call(*(named.get(a, a) for a in arguments)), words)


def test_a_file_that_is_not_toml(call: Call, tmp_path: Path):
    (tmp_path / "c.toml").write_text("name = = 1")
    check_mistake(call("plan", tmp_path / "c.toml"), ["c.toml", "TOML"])


def test_a_metric_that_the_source_cannot_serve(call: Call, tmp_path: Path, bad_file: Callable[[str], Path]):
    (tmp_path / "c.toml").write_text(
        f'name = "x"\nsource = {{kind = "tensor", file = "{bad_file("fine")}"}}\n'
        'baselines = {kinds = ["pca"]}\nscore = {metrics = ["recovery"]}\n'
    )
    check_mistake(call("run", tmp_path / "c.toml", "--out", tmp_path / "out"), ["recovery", "truth", "tensor"])
    assert not (tmp_path / "out").exists()


def test_damage_is_told_in_one_line(call: Call, tiny_file: Path, tmp_path: Path):
    out = tmp_path / "out"
    arguments = (tiny_file, "--out", out, "--set", "train.steps=10", "--set", "baselines.kinds=[]")
    assert call("run", *arguments)[0] == 0
    (file, *_) = out.glob("train-*/dictionary/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    check_mistake(call("run", *arguments), [str(file), "delete"])
    check_mistake(call("show", file.parent), [str(file)])
    code, told, _ = call("status", *arguments)
    assert code == 0 and "1 damaged" in told and str(file) in told


def test_the_link_to_the_report_replaces_no_folder(call: Call, tiny_file: Path, tmp_path: Path):
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    check_mistake(call("run", tiny_file, "--out", tmp_path / "out"), ["tiny", "exists and is not a link"])


def check_mistake(called: tuple[int, str, str], words: list[str]) -> None:
    code, told, warned = called
    assert code == 2 and told == "", called
    assert warned.count("\n") == 1 and warned.startswith("sae: ") and "Traceback" not in warned, warned
    assert all(word in warned for word in words), warned

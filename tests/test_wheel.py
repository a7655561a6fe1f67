"""The wheel in an empty environment, from an empty folder: a config by its name, from plan to report.

Slow, for it installs torch: `python -m pytest -m slow tests/test_wheel.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
Sae = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Sae:
    """The command of a fresh environment into which the wheel was installed, run in an empty folder."""
    built, home = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("environment")
    # From a copy, since a build leaves files that the next one would take over.
    copy = built / "copy"
    shutil.copytree(CHECKOUT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "runs", "*.egg-info"))
    make = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), str(copy)]
    subprocess.run(make, check=True)
    [wheel] = built.glob("*.whl")
    venv.create(home, with_pip=True)
    binary = home / ("Scripts" if os.name == "nt" else "bin")
    install = [str(binary / "python"), "-m", "pip", "install", "--quiet", "-c", str(CHECKOUT / "constraints.txt")]
    subprocess.run([*install, str(wheel)], check=True)

    def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [str(binary / "sae"), *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return call


def test_configs_are_found_by_name(sae: Sae, tmp_path: Path):
    listed = sae("configs", cwd=tmp_path)
    assert listed.returncode == 0 and all(name in listed.stdout for name in ("demo", "toys/pentagon", "suites/corr-50"))
    for name, steps in (
        ("sharkey-512", "steps"),
        ("demo", "114 steps"),
        ("toys/pentagon", "steps"),
        ("corr-50", "steps"),
    ):
        planned = sae("plan", name, cwd=tmp_path)
        assert planned.returncode == 0 and steps in planned.stdout, planned.stderr
    printed = sae("configs", "demo", cwd=tmp_path)
    assert printed.stdout == (CHECKOUT / "configs" / "demo.toml").read_text()
    (tmp_path / "demo.toml").write_text(printed.stdout.replace('name = "demo"', 'name = "mine"'))
    assert "mine: 114 steps" in sae("plan", "demo", cwd=tmp_path).stdout, "a local file of that name goes before"


def test_the_demo_runs_from_an_empty_folder(sae: Sae, tmp_path: Path):
    done = sae("run", "demo", "--set", "train.steps=200", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "runs/demo/report.html").is_file(), done.stderr
    shown = sae("show", "runs/demo/best", cwd=tmp_path)
    assert shown.returncode == 0 and "relu" in shown.stdout


def test_a_suite_and_a_toy_run_by_name(sae: Sae, tmp_path: Path):
    quick = ["--set", "train.steps=50", "--set", "source.seed=0"]
    done = sae("bench", "corr-50", *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = sae("run", "toys/pentagon", "--set", "train.steps=50", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_folder_called_pipelines_breaks_nothing(sae: Sae, tmp_path: Path):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise RuntimeError('this is not the one')\n")
    assert sae("plan", "demo", cwd=tmp_path).returncode == 0

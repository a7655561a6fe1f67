"""The wheel in an empty environment, from an empty folder: a config by its name, from plan to report.

Slow, for it installs torch: `python -m pytest -m slow tests/test_wheel.py`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.docs.pages import DATA, MODEL, Snippet, snippets

CHECKOUT = Path(__file__).parents[1]
Sae = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment into which the wheel was installed."""
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
    subprocess.run([*install, str(wheel)], check=True, env=clean_environment())
    return binary


def clean_environment() -> dict[str, str]:
    """The environment without what would lead to other packages than those of the wheel."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(program), *arguments]
    return subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sae(binaries: Path) -> Sae:
    """The command `sae` of that environment, run in an empty folder."""
    return partial(run, binaries / "sae")


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


def with_data(code: str) -> str:
    """The code with the model and the longest text of the test data; the page's config wants 400,000 tokens."""
    return code.replace("FOLDER_OR_HUB_ID", str(MODEL)).replace("TEXT.txt", str(DATA / "text/tinystories_train.txt"))


def needs_a_model(snippet: Snippet) -> bool:
    return "FOLDER_OR_HUB_ID" in snippet.code


def test_the_readme_runs_as_pasted(sae: Sae, binaries: Path, tmp_path: Path):
    """Files, then commands, then the Python of the page as one program; without a model, what needs none."""
    own = [one for one in snippets(CHECKOUT / "README.md") if MODEL.is_dir() or not needs_a_model(one)]
    program: list[str] = []
    for one in own:
        named = re.match(r"# (\S+\.py)\n", one.code)
        if named:
            (tmp_path / named[1]).write_text(one.code)
        elif one.language == "python":
            program.append(with_data(one.code))
    commands = [line for one in own if one.language == "sh" for line in one.code.splitlines()]
    commands = ["sae run demo", *(line for line in commands if not line.startswith("make "))]
    assert len(commands) >= 2 and len(program) >= 2
    for line in commands:
        words = shlex.split(with_data(line))
        done = sae(*words[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    (tmp_path / "pasted.py").write_text("\n".join(program))
    done = run(binaries / "python", "pasted.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

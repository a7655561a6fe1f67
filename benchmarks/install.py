"""Times an installation into a fresh environment of each Python, and checks what was installed.

python -m benchmarks.install --python python3.11 --python python3.12 --torch torch==2.13.0
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.isolated import ROOT
from benchmarks.lines import Line, emit, note, run
from sae.registry import UserError


def install(
    *,
    python: Annotated[Sequence[str], Parameter(name="--python", negative=())] = ("python3",),
    torch: str = "torch",
    constrained: bool = True,
    folder: Path | None = None,
) -> list[Line]:
    """Print one result for each Python: seconds to install, the size of site-packages, and whether `pip check` is
    clean.

    The environments are removed again. What pip has in its cache is not downloaded again.

    Parameters
    ----------
    python
        A Python of 3.11, 3.12 or 3.13; may be given several times.
    torch
        The build of torch, as pip takes it.
    constrained
        Install the tested versions of constraints.txt; otherwise the newest that are admitted.
    folder
        Where the environments are made; by default the system's temporary folder.
    """
    return [emit("install", installed(each, torch, constrained, folder)) for each in python]


def installed(python: str, torch: str, constrained: bool, folder: Path | None) -> Line:
    """Installs into a fresh environment, and measures. Raises `UserError` where a command fails."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as made:
        environment = Path(made) / "environment"
        note(f"{python}: {environment}")
        call([python, "-m", "venv", str(environment)])
        inside = str(environment / "bin" / "python")
        before = size_mb(environment)
        limits = ["--constraint", str(ROOT / "constraints.txt")] if constrained else []
        began = time.perf_counter()
        call([inside, "-m", "pip", "install", "--quiet", torch, *limits, str(ROOT)])
        seconds = time.perf_counter() - began
        check = completed([inside, "-m", "pip", "check"], made)
        began = time.perf_counter()
        version = call([inside, "-c", "import sae, platform; print(platform.python_version(), sae.__version__)"], made)
        imported = time.perf_counter() - began
        call([str(environment / "bin" / "sae"), "plan", "demo"], made)
        return {
            "name": f"python {version.split()[0]}",
            "version": version.split()[1],
            "torch_wanted": torch,
            "constrained": constrained,
            "install_s": round(seconds, 1),
            "site_packages_mb": round(size_mb(environment) - before),
            "packages": len(call([inside, "-m", "pip", "list", "--format=freeze"], made).splitlines()),
            "pip_check": "clean" if check.returncode == 0 else " ".join(check.stdout.split()),
            "first_import_s": round(imported, 1),
        }


def call(command: Sequence[str], cwd: str | None = None) -> str:
    """The output of a command. Raises `UserError` with the end of its messages where it fails."""
    done = completed(command, cwd)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: failed: {' '.join(done.stderr.split())[-400:]}")
    return done.stdout


def completed(command: Sequence[str], cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command that has ended, run without the paths of this process. Raises `UserError` where there is none such."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}; give a Python with --python") from None


def size_mb(folder: Path) -> float:
    """The megabytes of the files below a folder, links not followed."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) / 1e6


if __name__ == "__main__":
    run(install)

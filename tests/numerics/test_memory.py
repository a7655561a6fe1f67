"""Memory numbers on every operating system, and a library that imports without POSIX."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sae.numerics import memory

WITHOUT_POSIX = """
import os, pkgutil, sys
import numba, numpy, psutil, pydantic, safetensors.torch, scipy.stats, torch  # they have their own ways on Windows

for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix", "readline", "syslog", "crypt"):
    sys.modules[name] = None
for name in ("sysconf", "fork", "getuid", "geteuid", "getgid", "getpgid", "setsid", "killpg", "nice", "uname",
             "sched_getaffinity", "getloadavg", "statvfs", "chown", "fchmod", "mkfifo", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)

import sae
names = [m.name for m in pkgutil.walk_packages(sae.__path__, "sae.")]
assert "sae.numerics.memory" in names
for name in names:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # the kernels of NVIDIA's GPUs
            raise

x = torch.randn(400, 6)
[dictionary] = sae.fit(x, kind="relu", n_latents=8, l1=0.1, steps=3, batch_size=32)
sae.score(dictionary, x)
sae.save(dictionary, sys.argv[1])
sae.load(sys.argv[1])

from sae.numerics import memory
assert memory.memory_of("cpu") == psutil.virtual_memory().total
assert memory.held_bytes("cpu") > 0 and memory.peak_bytes("cpu") > 0
print("done")
"""


def test_the_library_works_without_posix_modules(tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0 and ran.stdout.endswith("done\n"), ran.stderr


@pytest.fixture
def no_posix(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither sysconf nor `resource` nor /proc, as on Windows."""
    find_spec("psutil") and import_module("psutil")  # which needs `resource` here, but not on Windows
    monkeypatch.delattr(os, "sysconf", raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(memory.Path, "is_file", lambda self: False)
    return monkeypatch


def test_psutil_gives_the_numbers_where_posix_does_not(no_posix: pytest.MonkeyPatch):
    psutil = pytest.importorskip("psutil")
    assert memory.memory_of("cpu") == psutil.virtual_memory().total
    assert memory.held_bytes("cpu") > 2**20
    assert memory.peak_bytes("cpu") > 2**20


def test_the_fallback_is_as_documented_where_nothing_gives_the_numbers(no_posix: pytest.MonkeyPatch):
    no_posix.setitem(sys.modules, "psutil", None)
    assert memory.memory_of("cpu") == memory.ASSUMED_MACHINE_BYTES
    assert memory.held_bytes("cpu") == memory.peak_bytes("cpu") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux restarts the peak")
def test_the_peak_counts_from_what_is_held():
    held = memory.held_bytes("cpu")
    x = torch.ones(2**23)  # 32 MiB
    del x
    assert 30 * 2**20 <= memory.peak_bytes("cpu") - held <= 60 * 2**20
    assert 2**28 < memory.memory_of("cpu") < 2**48

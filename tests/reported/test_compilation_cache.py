"""Compiled loops where numba's cache cannot be written or read."""

from __future__ import annotations

import errno
import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

numba: Any = pytest.importorskip("numba", reason="numba is not installed")

from numba.core import caching  # noqa: E402

from sae.numerics import numba_jit  # noqa: E402

ROOT = Path(__file__).parents[2]


def doubled(folder: Path, name: str) -> Any:
    """A compiled function of a new module."""
    file = folder / f"{name}.py"
    if not file.exists():
        file.write_text(
            "from sae.numerics.numba_jit import compiled\n\n\n@compiled\ndef doubled(x):\n    return 2 * x\n"
        )
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.doubled


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The warnings of a test, with an empty folder for the cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    numba_jit._warn_uncached.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    numba_jit._warn_uncached.cache_clear()


def test_no_folder_can_be_written(tmp_path: Path, shown: Any, monkeypatch: pytest.MonkeyPatch):
    """Without a writable folder for numba's cache, importing the loops ended in a RuntimeError of 63 lines."""

    def refuse(self: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    assert doubled(tmp_path, "first")(3) == 6 and doubled(tmp_path, "second")(3) == 6
    [warning] = shown
    assert "no writable folder" in str(warning.message) and "NUMBA_CACHE_DIR" in str(warning.message)
    assert warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno).count("\n") == 1


def test_the_disk_is_full(tmp_path: Path, shown: Any, monkeypatch: pytest.MonkeyPatch):
    """A cache that could be created but not written, as on a full disk, ended the run when a loop was compiled."""

    def refuse(self: Any, name: str, data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", refuse)
    assert doubled(tmp_path, "first")(3) == 6 and doubled(tmp_path, "second")(3) == 6
    [warning] = shown
    assert "No space left on device" in str(warning.message)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_file_of_the_cache_was_cut_off(ending: str, tmp_path: Path, shown: Any):
    """A cache file that a full disk had cut off ended every later run."""
    assert doubled(tmp_path, "first")(3) == 6
    files = [file for file in (tmp_path / "cache").rglob("*") if file.name.endswith(ending)]
    assert files and not shown
    for file in files:
        file.write_bytes(file.read_bytes()[:5])
    assert doubled(tmp_path, "first")(3) == 6
    assert shown and "NUMBA_CACHE_DIR" in str(shown[0].message)


def test_the_cache_is_still_used(tmp_path: Path, shown: Any):
    """With a writable folder a second process loads what the first compiled."""
    assert doubled(tmp_path, "first")(3) == 6
    again = doubled(tmp_path, "first")
    assert again(3) == 6 and sum(again.stats.cache_hits.values()) == 1 and not shown


def test_every_module_of_loops_imports_without_a_cache():
    """All loops of the library share this decorator: none of them needs the cache."""
    program = (
        "from numba.core import caching\n"
        "def refuse(self): raise PermissionError(13, 'Permission denied')\n"
        "caching._CacheLocator.ensure_cache_path = refuse\n"
        "import sae.training.kernels.loops\n"
        "from sae.numerics.seeds import epoch_rows\n"
        "print(sorted(epoch_rows(0, 7, 7, 0).tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 1, 2, 3, 4, 5, 6]\n" and done.stderr.count("\n") == 1

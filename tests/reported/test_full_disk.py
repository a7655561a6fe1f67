"""A full disk is one line that names the file: reported were tracebacks, and lines that named none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from sae.activations.shards import write_shard
from sae.numerics.atomic_write import write_atomically, write_tensors
from sae.registry import UserError

NO_SPACE = "No space left on device"
Call = Callable[..., tuple[int, str, str]]


def full(*_: object) -> None:
    """Refuses as writing and flushing do: without a name."""
    raise OSError(errno.ENOSPC, NO_SPACE)


def full_for_safetensors(*_: object) -> None:
    raise SafetensorError(f"Error while serializing: I/O error: {NO_SPACE} (os error 28)")


@pytest.mark.parametrize("write", [write_atomically, write_tensors, write_shard])
def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Any], None]
):
    file, content = tmp_path / "file", b"12" if write is write_atomically else {"acts": torch.zeros(2, 3)}
    write(file, content)
    before = file.read_bytes()
    patches: list[tuple[Any, str, object]] = [(os, "fsync", full)]
    if write is not write_atomically:
        patches.append((safetensors.torch, "save_file", full_for_safetensors))
    for place, name, fails in patches:
        with monkeypatch.context() as patch, pytest.raises((OSError, UserError)) as caught:
            patch.setattr(place, name, fails)
            write(file, content)
        message = str(caught.value)
        assert message in (f"[Errno {errno.ENOSPC}] {NO_SPACE}: {str(file)!r}", f"{file}: {NO_SPACE}")
        assert [f.name for f in tmp_path.iterdir()] == ["file"] and file.read_bytes() == before


def test_a_tensor_that_safetensors_refuses_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: (_ for _ in ()).throw(SafetensorError("odd")))
    with pytest.raises(SafetensorError, match="odd"):
        write_tensors(tmp_path / "file", {})


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not tell the file of a descriptor")
@pytest.mark.parametrize("place", ["generate", "train", "report", "report/best"])
def test_a_run_on_a_full_disk(tiny_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, place: str):
    """`sae run` ended with 'sae: No space left on device', or with the traceback of a SafetensorError, or, while the
    report copied the best dictionary, of a shutil.Error."""
    monkeypatch.setattr("pipelines.stages.report.pictures", lambda *_: [])  # takes most of the time
    stage, _, folder = place.partition("/")
    flush, settings = os.fsync, ["--set", "train.seeds=0", "--set", "baselines.kinds=[]", "--out", tmp_path / "out"]

    def fsync(descriptor: int) -> None:
        file = os.readlink(f"/proc/self/fd/{descriptor}")
        full() if f"/{stage}-" in file and f"/{folder}" in file else flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        code, _, told = call("run", tiny_file, *settings)
    assert code == 2 and told.count("\n") == 1 and f".partial/{folder}" in told
    assert told.startswith(f"sae: {tmp_path / 'out' / stage}-") and told.endswith(f": {NO_SPACE}\n")
    assert call("run", tiny_file, *settings)[0] == 0

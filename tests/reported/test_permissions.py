"""What cannot be read is reported as that, and files of steps can be read by whom the umask lets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.steps.progress import Board
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.activations.shards import write_shard
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError


@pytest.fixture
def table(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["dictionary"]["l1"], tiny["train"]["seeds"], tiny["baselines"]["kinds"] = 0.1, 0, []
    return tiny


def work(table: dict[str, Any], out: Path) -> list[Step]:
    steps = plan(parse(table))[:1]
    run(steps, Store(out), execution(parse(table).runtime), Board(Console(quiet=True)))
    return steps


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Refuses to open files of this name, as the system does; root may open everything, so modes do not serve."""
    opened = Path.open

    def open_(file: Path, *arguments: Any, **settings: Any) -> Any:
        if file.name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **settings)

    monkeypatch.setattr(Path, "open", open_)


@pytest.mark.parametrize("name", ["manifest.json", "source.safetensors"])
def test_a_file_that_cannot_be_read_is_not_to_be_deleted(
    table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """'Permission denied' was reported as 'damaged', with the advice to delete the step."""
    (source,) = work(table, tmp_path)
    forbid(monkeypatch, name)
    with pytest.raises(UserError) as caught:
        work(table, tmp_path)
    file = tmp_path / source.name / name
    assert str(caught.value) == f"{file}: cannot be read (Permission denied); make it readable and run again"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_files_have_the_mode_of_the_umask(table: dict[str, Any], tmp_path: Path, umask: int):
    """Tensors were readable by their owner alone, beside JSON that all could read: colleagues got 'damaged'."""
    before = os.umask(umask)
    try:
        (source,) = work(table, tmp_path)
        write_shard(tmp_path / "shard.safetensors", {"acts": torch.zeros(2, 3)})
        write_atomically(tmp_path / "a.json", b"{}")
    finally:
        os.umask(before)
    files = [*(tmp_path / source.name).iterdir(), tmp_path / "shard.safetensors", tmp_path / "a.json"]
    assert len(files) >= 4 and {oct(f.stat().st_mode & 0o777) for f in files} == {oct(0o666 & ~umask)}

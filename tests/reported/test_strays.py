"""Killed runs leave no files that no later one removes; folders that can only be read; names that no file can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.explore import site
from pipelines.plan import plan
from pipelines.runner import execution, group_of, run, standings
from pipelines.steps import lease
from pipelines.steps.checksums import CHECKSUMS
from pipelines.steps.progress import Board, Status
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from tests.interruptions import interrupted_at

Call = Callable[..., tuple[int, str, str]]


def test_a_link_of_a_run_killed_before_it_was_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each run killed between making its link and moving it left a link with its process id for ever."""
    store = Store(tmp_path)
    store.create()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted_at(1, Path.replace))
        store.link("demo", tmp_path / "report-1")
    for name in ("report-2", "report-3"):
        (tmp_path / name).mkdir()
        assert store.link("demo", tmp_path / name).resolve() == tmp_path / name
    assert {f.name for f in tmp_path.iterdir()} == {".locks", ".scratch", "demo", "report-2", "report-3"}


def test_pages_of_a_run_killed_as_it_replaced_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`sae explore`, killed between moving the old pages away and the new ones in, left the old ones for ever."""
    out, other = tmp_path / "pages[1]", tmp_path / ".pages[2].old-7"
    other.mkdir()

    def replace(text: str) -> None:
        partial = tmp_path / ".pages[1].partial"
        partial.mkdir()
        (partial / "index.html").write_text(text)
        vars(site)["_replace"](out, partial)

    replace("one")
    monkeypatch.setattr(Path, "rename", interrupted_at(2, Path.rename))
    with pytest.raises(KeyboardInterrupt):
        replace("two")
    monkeypatch.undo()
    (tmp_path / ".pages[1].partial" / "index.html").unlink()
    (tmp_path / ".pages[1].partial").rmdir()
    replace("three")
    assert {f.name for f in tmp_path.iterdir()} == {out.name, other.name}
    assert (out / "index.html").read_text() == "three"


@pytest.mark.parametrize("is_running", [False, True])
def test_the_status_of_a_folder_that_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_running: bool
):
    """`sae status` on the run of a colleague, here on another machine, ended with 'Permission denied' for the lock."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "process_state", lambda _: "unknown")
    store, step = Store(tmp_path), Step("train", 1, {})
    store.create()
    scratch = store.scratch(group_of(step))
    scratch.mkdir()
    Status("t", [step.name]).write(scratch / "status.json")

    def refuses(*_: object) -> float:
        raise PermissionError(13, "Permission denied")

    with store.claim(group_of(step)) as claimed, monkeypatch.context() as patch:
        assert claimed is not None
        patch.setattr(lease, "_clock", refuses)
        if not is_running:
            vars(claimed)["_ended"].set()
        assert standings([step], store)[0].state == ("running" if is_running else "stopped")
    assert standings([step], store)[0].state == "stopped"


@pytest.mark.parametrize(("name", "code"), [("n" * 200, 0), ("n" * 201, 2), ("é" * 101, 2)])
def test_a_name_longer_than_file_names_is_refused_when_planned(
    call: Call, tiny_file: Path, tmp_path: Path, name: str, code: int
):
    """A run with a name of 300 characters failed after all of its work, when its link was made."""
    assert call("plan", tiny_file, "--set", f'name="{name}"', "--out", tmp_path / "out")[0] == code
    if code:
        told = call("plan", tiny_file, "--set", f'name="{name}"')[2]
        assert told.endswith(f"': {len(name.encode())} bytes long; shorten it to 200 or fewer\n")
    else:
        store = Store(tmp_path / "out")
        store.create()
        assert store.link(f"{name}-standard-report", tmp_path).is_symlink()


def test_checksums_of_a_run_killed_as_it_finished_a_step(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run killed between renaming a finished source and removing its checksums left them there for ever."""
    steps = plan(parse(tiny))[:1]

    def work() -> None:
        run(steps, Store(tmp_path), execution(parse(tiny).runtime), Board(Console(quiet=True)))

    unlink = Path.unlink

    def killed(file: Path, *arguments: Any, **settings: Any) -> None:
        if file.name == CHECKSUMS:
            raise KeyboardInterrupt
        unlink(file, *arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        work()
    assert (tmp_path / steps[0].name / CHECKSUMS).exists()
    work()
    assert {f.name for f in (tmp_path / steps[0].name).iterdir()} == {"source.safetensors", "manifest.json"}

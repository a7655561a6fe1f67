"""What failed or was killed leaves no folders behind that no later run continues."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, group_of, run
from pipelines.steps.checksums import CHECKSUMS
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.registry import UserError
from sae.sources import independent
from tests.streaming import words


def work(table: dict[str, Any], out: Path) -> None:
    run(plan(parse(table))[:1], Store(out), execution(parse(table).runtime), Board(Console(file=StringIO())))


def test_a_refused_source_leaves_no_folder(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hook that the model does not have left a `.partial` and a scratch folder that no corrected config used."""

    def refuses(*_: object) -> None:
        raise UserError("source.hook = 'x': the model has no such hook")

    monkeypatch.setattr(independent.Config, "prepare", refuses)
    with pytest.raises(UserError, match="no such hook"):
        work(tiny, tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {".locks", ".scratch"} and not list(
        (tmp_path / ".scratch").iterdir()
    )


def test_what_was_written_before_a_refusal_is_kept(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fills_the_disk(_: object, directory: Path, *__: object) -> None:
        (directory / "shard").write_text("hours of work")
        raise UserError("the disk is full")

    monkeypatch.setattr(independent.Config, "prepare", fills_the_disk)
    with pytest.raises(UserError, match="full"):
        work(tiny, tmp_path)
    assert [f.name for f in tmp_path.glob("*.partial/*")] == ["shard"]


@pytest.mark.parametrize("status", [None, b"", b"{"])
def test_scratch_of_a_run_killed_as_it_began_is_removed(tiny: dict[str, Any], tmp_path: Path, status: bytes | None):
    """A run killed between making its scratch folder and writing its status left an empty folder for ever."""
    work(tiny, tmp_path)
    scratch = tmp_path / ".scratch" / group_of(plan(parse(tiny))[0])
    scratch.mkdir()
    if status is not None:
        (scratch / "status.json").write_bytes(status)
    work(tiny, tmp_path)
    assert not scratch.exists()
    scratch.mkdir()
    (scratch / "checkpoint.safetensors").write_bytes(b"of members of another sweep")
    work(tiny, tmp_path)
    assert scratch.exists()


@pytest.mark.parametrize(("field", "value"), [("n_tokens", 100_000), ("heldout_share", 0.001)])
def test_a_refused_text_leaves_no_rows(
    tiny: dict[str, Any], tmp_path: Path, tiny_models: dict[str, Path], field: str, value: float
):
    """A text that was too short left the rows of its tokens in a folder that no corrected config used."""
    source = {"kind": "transformer", "model": str(tiny_models["llama"]), "hook": "blocks.0.hook_resid_post",
              "text": str(words(tmp_path / "text.txt", 40)), "separator": "|", "context": 8}  # fmt: skip
    tiny |= {"source": source | {field: value}, "score": {"metrics": ["reconstruction"]}}
    with pytest.raises(UserError, match=r"source\."):
        work(tiny, tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").rglob("*") if f.suffix != ".lock"} == {".locks", ".scratch"}


def test_checksums_alone_are_no_work(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(_: object, directory: Path, *__: object) -> None:
        (directory / CHECKSUMS).write_text("{}")
        raise UserError("no such hook")

    monkeypatch.setattr(independent.Config, "prepare", refuses)
    with pytest.raises(UserError, match="no such hook"):
        work(tiny, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_suspended_run_wrote_after_another_had_finished_is_removed(tiny: dict[str, Any], tmp_path: Path):
    """A run that was suspended while it saved a dictionary, until another had done so, left a folder for ever."""
    work(tiny, tmp_path)
    partial = Store(tmp_path).partial(plan(parse(tiny))[0])
    partial.mkdir()
    (partial / "source.safetensors").write_text("of the run that went on")
    work(tiny, tmp_path)
    assert not partial.exists()

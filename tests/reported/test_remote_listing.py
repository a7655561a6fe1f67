"""Listings of other machines whose names lead out of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.files.location import Hub, open_location

fsspec: Any = pytest.importorskip("fsspec", reason="fsspec is not installed")
OUTSIDE = ["../x.safetensors", "../../x.safetensors", "a/../../x.safetensors", "..\\..\\x.safetensors",
           "C:\\x.safetensors", "C:x.safetensors", "a\\x.safetensors"]  # fmt: skip


@pytest.fixture
def memory() -> Any:
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def put(system: Any, name: str, content: bytes) -> None:
    """Stores a file under exactly this name, as a malicious server can."""
    from fsspec.implementations.memory import MemoryFile

    system.store[name] = MemoryFile(system, name, content)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which temporary folders are made, several levels below `tmp_path`."""
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listed_name_cannot_write_outside_the_cache(
    name: str, memory: Any, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`sae.load(URL)` wrote the files of an index with `../../x.safetensors` outside its folder of copies."""
    sae.save(Relu.tied(torch.eye(3)), tmp_path / "d")
    put(memory, f"/run/{name}", (tmp_path / "d" / "dictionary.safetensors").read_bytes())
    put(memory, "/run/readme.txt", b"")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(type(memory), "find", lambda self, root, **_: sorted(self.store))
    with pytest.raises(ValueError, match="can lie outside the folder") as refused:
        sae.load("memory://run")
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before and not list(temporary.iterdir())


def test_convert_refuses_it_too_and_writes_nothing(memory: Any, temporary: Path, tmp_path: Path):
    """`sae convert URL OUT` fetched such a file before it looked at it."""
    put(memory, "/run/../../x.safetensors", b"x" * 64)
    put(memory, "/run/readme.txt", b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="can lie outside the folder"):
        sae.convert("memory://run", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_the_level_above_in_an_index_does_no_harm(memory: Any, tmp_path: Path):
    """A page that also links to `../index.html` still loads."""
    sae.save(Relu.tied(torch.eye(3)), tmp_path)
    for file in tmp_path.iterdir():
        put(memory, f"/run/{file.name}", file.read_bytes())
    put(memory, "/run/../index.html", b"")
    assert sae.load("memory://run").n_latents == 3


def test_copies_of_similar_names_are_not_confused(memory: Any, tmp_path: Path):
    """`a b/cfg.json` and `a_b/cfg.json` had the same local copy, so the second was read from the first."""
    put(memory, "/run/a b/cfg.json", b"first")
    put(memory, "/run/a_b/cfg.json", b"second")
    with open_location("memory://run") as (location, _):
        assert location.fetch("a b/cfg.json").read_bytes() == b"first"
        assert location.fetch("a_b/cfg.json").read_bytes() == b"second"


def test_the_url_of_the_user_cannot_lead_out_of_the_cache_either(memory: Any, temporary: Path, tmp_path: Path):
    """The path in the URL itself was appended to the folder of copies."""
    put(memory, "/a/../../../x.pt", b"\x80\x02}.")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError):
        sae.load("memory://a/../../../x.pt")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_hub_is_not_asked_for_such_names(monkeypatch: pytest.MonkeyPatch):
    """Names from the hub's listing pass the same check."""
    monkeypatch.setattr(Hub, "all_files", ["../../x.safetensors"])
    monkeypatch.setattr(Hub, "_download", lambda self, file: pytest.fail(f"asked for {file}"))
    with pytest.raises(ValueError, match="can lie outside the folder"):
        sae.load("hf://o/n")

"""Loading works the same from local folders, file systems of fsspec and the hub, and only needed files are fetched. A
local server stands in for the hub, with the real client.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.files.hub import page
from sae.files.location import open_location

from .hub_stand_in import stand_in, with_hub
from .made import MADE, Made

fsspec: Any = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture
def memory() -> Any:
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    for path in system.ls("/", detail=False):
        system.rm(path, recursive=True)
    return system


def copied(made: Made, folder: Path, system: Any, at: str) -> str:
    """Copies a folder to another file system; returns the path there."""
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe_file(f"{at}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return f"{at}/{made.path.relative_to(folder).as_posix()}".removesuffix("/.")


@pytest.mark.parametrize("name", ["saelens", "dictionary_learning", "sparsify", "gemma_scope", "llama_scope", "openai"])
def test_a_url_opens_like_a_folder(name: str, memory: Any, tmp_path: Path):
    made = MADE[name](tmp_path)
    path = copied(made, tmp_path, memory, "/shelf")
    here, there = sae.load(made.path), sae.load(f"memory:/{path}")
    assert torch.equal(here.W_enc, there.W_enc) and here.settings() == there.settings()
    assert here.card == {k: v for k, v in there.card.items() if k != "from"}
    assert there.card["from"].startswith("memory://shelf")
    assert torch.equal(sae.load(made.path.as_uri()).W_dec, here.W_dec)


def test_our_own_form_opens_from_a_url(memory: Any, tmp_path: Path):
    d = Relu.tied(torch.eye(3)).with_card(made="here")
    sae.save(d, tmp_path)
    copied(Made(tmp_path, lambda x: (x, x)), tmp_path, memory, "/own")
    assert sae.load("memory://own").card == {"made": "here"}


def test_several_far_away_are_offered_by_their_names_and_not_fetched(memory: Any, tmp_path: Path):
    for i in (0, 1):
        copied(made := MADE["dictionary_learning"](tmp_path / str(i)), tmp_path / str(i), memory, f"/run/trainer_{i}")
    read: list[str] = []
    fetch = type(memory).get_file

    def noted(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return fetch(self, path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(memory), "get_file", noted)
        with pytest.raises(ValueError, match="choose one of 2 by name or index: trainer_0, trainer_1"):
            sae.load("memory://run")
        assert read == []
        d = sae.load("memory://run", name="trainer_1")
    assert torch.equal(d.W_enc, sae.load(made.path).W_enc)
    assert {path.rpartition("/")[2] for path in read} == {"ae.pt", "config.json"}


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("memory://nowhere", FileNotFoundError, "memory://nowhere: no such folder or file"),
        ("nonsense://x", ValueError, "nonsense://x: "),
        ("hf://name", ValueError, "or hf://owner/name@revision:folder"),
        ("owner/name", FileNotFoundError, "write hf://owner/name for a repository on the hub"),
        ("", FileNotFoundError, "no dictionary here|no such"),
    ],
)
def test_paths_that_lead_nowhere(path: str, error: type[Exception], words: str, tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(error, match=words) as told:
            sae.load(path)
    assert "\n" not in str(told.value)


def test_the_parts_of_a_hub_path(monkeypatch: pytest.MonkeyPatch):
    from sae.files import location

    files = ["cfg.json", "a/b/sae.safetensors", "a/b/cfg.json", "a/config.json"]
    monkeypatch.setattr(location.Hub, "all_files", files)
    told: dict[str, tuple[str | None, str, str | None]] = {}
    for path in ("o/n", "o/n:a/b", "o/n/a/b", "o/n@v1:a/b/", "o/n@v1", "o/n@v1/a", "o/n:a/b/cfg.json"):
        with open_location(f"hf://{path}") as (found, file):
            assert isinstance(found, location.Hub) and found.repo == "o/n"
            told[path] = found.revision, found.folder, file
    assert told == {
        "o/n": (None, "", None),
        "o/n:a/b": (None, "a/b", None),
        "o/n/a/b": (None, "a/b", None),
        "o/n@v1:a/b/": ("v1", "a/b", None),
        "o/n@v1": ("v1", "", None),
        "o/n@v1/a": ("v1", "a", None),
        "o/n:a/b/cfg.json": (None, "a/b", "cfg.json"),
    }


PUSHED = """
from sae.dictionaries.relu import Relu
source = {"kind": "transformer", "model": "gpt2", "hook": "blocks.0.hook_x", "context": 64, "bos": "row"}
card = {"source": {**source, "text": "/home/me/secret/text.txt"}, "scores": {"l0": 12.5}, "model_revision": "abc"}
d = Relu.tied(torch.eye(4)).with_card(**card)
print(json.dumps(sae.push(d, "someone/thing", licence="mit", private=True)))
e = sae.load("hf://someone/thing")
print(json.dumps([torch.equal(e.W_enc, d.W_enc), e.card]))
for path in ("hf://someone/nothing", "hf://someone/thing:folder", "hf://someone/run", "hf://someone/thing:README.md"):
    try:
        sae.load(path)
    except (ValueError, FileNotFoundError) as error:
        print(json.dumps([type(error).__name__, str(error)]))
f = sae.load("hf://someone/run", name="trainer_1")
print(json.dumps([f.kind, f.card["from"], f.card["source"]["model"]]))
g = sae.load("hf://someone/run@main:trainer_0/ae.pt")
print(json.dumps(torch.equal(f.W_enc, g.W_enc)))
from tests.files.test_saelens_release import of_topk_with_skip
sae.push(d, "someone/twice")
sae.push(of_topk_with_skip(), "someone/twice")
"""


def test_pushed_and_opened_again(tmp_path: Path):
    MADE["dictionary_learning"](tmp_path / "made")
    with stand_in() as hub:
        files = {f"trainer_{i}/{f.name}": f.read_bytes() for i in (0, 1) for f in (tmp_path / "made").iterdir()}
        hub.repos["someone/run"] = files
        address, (same, card), *errors, opened, alike = with_hub(hub, tmp_path / "cache", PUSHED)
        assert address == "hf://someone/thing" and same and hub.private["someone/thing"]
        assert card["licence"] == "mit" and card["scores"] == {"l0": 12.5}
        assert card["source"]["text"] == "text.txt" and "secret" not in json.dumps(card)
        names = [name for name, _ in errors]
        assert names == ["MissingFileError", "MissingFileError", "UserError", "UserError"]
        assert "choose one of 2 by name or index: trainer_0, trainer_1" in errors[2][1]
        assert all("\n" not in told and "hf://someone/" in told for _, told in errors)
        assert (
            opened == ["relu", f"hf://someone/run@{hub.commit('someone/run')}:trainer_1/ae.pt", "m"] and alike is True
        )
        fetched = [
            told.rpartition("/main/")[2] for told in hub.requests if told.startswith("GET") and "/run/resolve/" in told
        ]
        assert fetched[:2] == ["trainer_1/ae.pt", "trainer_1/config.json"], (
            "what the list of files names is not fetched"
        )
        readme = hub.repos["someone/thing"]["README.md"].decode()
    front = readme.split("---")[1]
    assert all(
        line in front
        for line in (
            "license: mit",
            "base_model: gpt2",
            "library_name: superposition-sae",
            "- relu",
            "- saelens",
            "- sparse-autoencoder",
            "- gpt2",
        )
    )
    assert (
        'sae.load("hf://someone/thing")' in readme
        and "| l0 | 12.5 |" in readme
        and "| model revision | abc |" in readme
    )
    for_saelens = {f"saelens/{name}" for name in ("cfg.json", "sae_weights.safetensors", "pretrained_saes.yaml")}
    native = {"README.md", "dictionary.json", "dictionary.safetensors"}
    assert set(hub.repos["someone/thing"]) == native | for_saelens
    assert set(hub.repos["someone/twice"]) == native, "SAELens has no such kind, and a former one is not left there"


def test_a_card_cannot_break_out_of_the_page():
    hostile = "```\n<script>alert(1)</script>\n# |x| [a](javascript:b)"
    d = Relu.tied(torch.eye(2)).with_card(source={"model": hostile, "hook": hostile}, scores={hostile: 1.0})
    text = page(d, "someone/thing")
    fenced = text.split("```")
    assert len(fenced) == 5, "two fences: the example and the card"
    outside = fenced[0] + fenced[2] + fenced[4]
    assert "<script" not in outside and "[a](" not in outside and "\n# |" not in outside
    assert json.loads(fenced[3].removeprefix("json\n"))["source"]["model"] == hostile
    assert "base_model" not in text

"""``~`` is the home folder in every setting and argument that is a path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sae
from pipelines.config.config import parse
from pipelines.plan import plan
from sae.activations.text import Text
from sae.dictionaries.relu import Relu
from sae.probing import TaskSettings
from sae.probing.sources import shift_files
from sae.sources import tensor, transformer

D = Relu.tied(torch.eye(4))


def of_text(**settings: Any) -> transformer.Config:
    return transformer.Config.model_validate({"hook": "h", "text": "t.txt", "model": "m"} | settings)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def test_settings(home: Path):
    """A source with ``~`` was taken for one of the hub, or did not exist."""
    source = of_text(model="~/m", text="~/t.txt", labels=Path("~/l.csv"))
    assert (source.model, source.text, source.labels) == (str(home / "m"), str(home / "t.txt"), home / "l.csv")
    (home / "t.txt").write_text("one")
    assert list(Text("~/t.txt").read()) == ["one"]
    assert tensor.Config.model_validate({"file": "~/x.npy"}).file == home / "x.npy"
    assert TaskSettings.model_validate({"labels": ["~/a.csv"]}).labels == (home / "a.csv",)
    assert shift_files({"labels": ["~/a.csv"]}) == (home / "a.csv",)


def test_names_without_a_tilde_stay_as_they_are():
    """No key of a step changes: a path is not made absolute or normalised."""
    source = of_text(model="owner/model", text="./a//b.txt", labels=Path("x/../l.csv"))
    dumped = source.model_dump(mode="json")
    assert (dumped["model"], dumped["text"], dumped["labels"]) == ("owner/model", "./a//b.txt", "x/../l.csv")
    assert of_text(model="a~b", text="x/~/y").text == "x/~/y"


def test_a_run_in_the_home_folder(home: Path):
    """The folder ``~/runs`` was made below the working folder under the name ``~``."""
    save_file({"acts": torch.randn(50, 4)}, home / "x.safetensors")
    dictionary = {"kind": "relu", "n_latents": 8, "l1": 0.1}
    table = {"name": "s", "source": {"kind": "tensor", "file": "~/x.safetensors"}, "dictionary": dictionary}
    config = parse(table | {"runtime": {"out": "~/r"}, "report": {"best_by": "fvu"}})
    assert config.runtime.out == home / "r"
    source, *_ = plan(config)
    assert source.config["source"]["file"] == str(home / "x.safetensors") and source.config["files"]["file"]


def test_dictionaries(home: Path, monkeypatch: pytest.MonkeyPatch):
    """`sae.save` made a folder called ``~`` in the working folder."""
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    sae.save(D, "~/d")
    sae.convert("~/d", Path("~/e"), format="saelens")
    for path in ("~/d", Path("~/e"), home / "d"):
        assert torch.allclose(sae.load(path).W_dec, D.W_dec)
    assert not list((home / "work").iterdir()) and {"d", "e"} <= {file.name for file in home.iterdir()}


@pytest.mark.parametrize("words", [["--out=~/r"], ["--out", "~/r"]])
def test_arguments(home: Path, tmp_path: Path, call: Callable[..., Any], tiny_file: Path, words: list[str]):
    """A shell expands no ``~`` behind an equals sign."""
    code, shown, _ = call("plan", tiny_file, *words)
    assert code == 0 and str(home / "r") in shown and "~" not in shown


def test_a_saved_config_has_the_expanded_path(home: Path):
    dumped = json.loads(of_text(model="~/m").model_dump_json())
    assert dumped["model"] == str(home / "m")

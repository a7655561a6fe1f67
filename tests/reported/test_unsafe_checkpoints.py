"""A model whose weights cannot be unpickled safely is refused in one sentence, and nothing of it is run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.attack.mutations import MALICIOUS, Evil
from sae.model.hooked import Model
from sae.registry import UserError


@pytest.fixture
def folder(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    """A model whose weights are in pytorch_model.bin."""
    shutil.copytree(tiny_models["llama"], tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    return tmp_path / "model"


def cut_short(_: Any, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def emptied(_: Any, file: Path) -> None:
    file.write_bytes(b"")


def test_weights_in_a_pickle_of_tensors_are_loaded(folder: Path):
    assert Model.boot(str(folder)).d_vocab == 47


@pytest.mark.parametrize("way", [*MALICIOUS, cut_short, emptied], ids=lambda f: f.__name__)
def test_other_pickles_are_refused(folder: Path, tmp_path: Path, way: Callable[[Evil, Path], None]):
    """`pytorch_model.bin` with an object of code in it ended in torch's traceback, which says how to run the code."""
    way(Evil(tmp_path / "touched"), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: the weights are damaged, or a pickle of more") as caught:
        Model.boot(str(folder))
    assert "\n" not in str(caught.value) and not (tmp_path / "touched").exists()


def test_a_pickle_that_only_the_hub_has(tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    import pickle

    from transformer_lens.model_bridge import TransformerBridge

    def unsafe(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError("Weights only load failed.\nRe-running with weights_only=False ...")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", unsafe)
    with pytest.raises(UserError, match="the weights are damaged, or a pickle of more") as caught:
        Model.boot(str(tiny_models["llama"]))
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)

"""The tensor source: files in two formats, every row once in an epoch, errors that name bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae.registry import MissingFileError, UserError
from sae.source import TensorSource
from sae.sources.tensor import Config


def quiet(done: int, total: int, unit: str) -> None: ...


def test_both_formats_give_the_same_rows(tmp_path: Path):
    x = torch.randn(50, 3)
    save_file({"acts": x, "label.noun": (torch.arange(50) % 2)}, tmp_path / "x.safetensors")
    np.save(tmp_path / "x.npy", x.numpy())
    a, b = (Config(file=tmp_path / f"x.{end}") for end in ("safetensors", "npy"))
    assert a.provides == {"labels"} and b.provides == frozenset()
    for config in (a, b):
        config.prepare(tmp_path / "out", quiet, "cpu")
    assert torch.equal(a.open(tmp_path, "cpu").batch(1, 8).acts, b.open(tmp_path, "cpu").batch(1, 8).acts)
    choose, test = a.open(tmp_path, "cpu").labelled()
    assert set(choose.labels) == {"noun"} and len(test.acts) == len(test.labels["noun"]) == 5


def test_an_epoch_sees_every_training_row_once_and_held_out_rows_never():
    x = torch.arange(100.0)[:, None]
    source = TensorSource(x, heldout=0.2)
    assert source.n_rows == {"choose": 10, "test": 10, "train": 80}
    epoch = torch.cat([source.batch(step, 8).acts for step in range(10)])[:, 0].tolist()
    later = torch.cat([source.batch(step, 8).acts for step in range(10, 20)])[:, 0].tolist()
    assert len(set(epoch)) == 80 and set(epoch) == set(later) and epoch != later
    heldout = {float(v) for s in ("choose", "test") for v in source.batch(0, 10, s).acts[:, 0]}
    assert len(heldout) == 20 and not heldout & set(epoch)


def test_bad_files_are_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"source.file = '.*none.npy': does not exist"):
        Config(file=tmp_path / "none.npy").prepare(tmp_path, quiet, "cpu")
    save_file({"a": torch.randn(50, 3)}, tmp_path / "t.safetensors")
    whole = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-20])
    save_file({"a": torch.randn(50, 3), "b": torch.randn(50, 3)}, tmp_path / "two.safetensors")
    save_file({"a": torch.full((50, 3), float("nan"))}, tmp_path / "nan.safetensors")
    save_file({"a": torch.randn(50)}, tmp_path / "flat.safetensors")
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY junk")
    for name, words in {
        "cut.safetensors": "not a valid",
        "two.safetensors": "set source.name to one of a, b",
        "nan.safetensors": "NaN",
        "flat.safetensors": "floating-point matrix",
        "junk.npy": "not a valid",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            Config(file=tmp_path / name).prepare(tmp_path / "out", quiet, "cpu")
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_pickled_npy_is_not_executed(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a valid"):
        Config(file=tmp_path / "trap.npy").prepare(tmp_path / "out", quiet, "cpu")
    assert not (tmp_path / "sprung").exists()


def test_a_target_is_read_with_its_row(tmp_path: Path):
    x = torch.randn(50, 3)
    save_file({"x": x, "y": 2 * x, "label.noun": torch.arange(50) % 2}, tmp_path / "x.safetensors")
    config = Config(file=tmp_path / "x.safetensors", target="y")
    assert config.provides == {"labels", "targets"}
    config.prepare(tmp_path / "out", quiet, "cpu")
    source = config.open(tmp_path / "out", "cpu")
    assert source.has_targets
    for split in ("train", "choose", "test"):
        batch = source.batch(1, 7, split)
        assert batch.targets is not None and torch.equal(batch.targets, 2 * batch.acts)
    assert all(torch.equal(b.wanted, 2 * b.acts) for b in source.labelled() or ())
    plain = Config(file=tmp_path / "x.safetensors", name="x")
    assert torch.equal(plain.open(tmp_path, "cpu").batch(1, 7).acts, source.batch(1, 7).acts)
    assert "target" not in plain.model_dump(mode="json") and config.model_dump(mode="json")["target"] == "y"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "z"}, "no tensor is called 'z'; choose from wide, x, y"),
        ({"target": "y"}, "several matrices; set source.name to one of wide, x"),
        (
            {"name": "x", "target": "wide"},
            r"source.target = 'wide': it has shape \[50, 4\] and the activations have shape \[50, 3\]",
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, str], words: str):
    save_file(
        {"x": torch.randn(50, 3), "y": torch.randn(50, 3), "wide": torch.randn(50, 4)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(UserError, match=words) as error:
        Config(file=tmp_path / "x.safetensors", **settings).prepare(tmp_path / "out", quiet, "cpu")
    assert "\n" not in str(error.value)


def test_the_matrix_that_is_read_is_no_target(tmp_path: Path):
    with pytest.raises(ValueError, match="target = 'x': it is the same as name; leave it out"):
        Config(file=tmp_path / "x.safetensors", name="x", target="x")
    save_file({"y": torch.randn(50, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="it has no matrix but the target 'y'"):
        Config(file=tmp_path / "x.safetensors", target="y").prepare(tmp_path / "out", quiet, "cpu")

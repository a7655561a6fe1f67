"""Tensors are read exactly as they were saved, in every form and memory layout, and only when they are needed."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae.files.tensors import NamedWeights, StoredTensor, open_file
from sae.files.tensors import tensor as stored_tensor
from sae.files.tensors.records import GlobalName, PickledObject

X = torch.randn(37, 11, generator=torch.Generator().manual_seed(0))


def as_torch(tree: Any, file: Path) -> None:
    torch.save(tree, file)


def as_legacy(tree: Any, file: Path) -> None:
    torch.save(tree, file, _use_new_zipfile_serialization=False)


def as_pickle(tree: Any, file: Path) -> None:
    with file.open("wb") as f:
        pickle.dump(tree, f)


PICKLES = [as_torch, as_legacy, as_pickle]


@pytest.fixture(params=[4 * 2**20, 100], ids=["at once", "in small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_tensor, "_AT_ONCE", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("save", PICKLES, ids=lambda f: f.__name__)
def test_torchs_files_in_every_layout(save: Callable[[Any, Path], None], tmp_path: Path):
    tree = {"rows": X, "columns": torch.nn.Parameter(X.T), "part": X[3:9], "half": X.bfloat16(), "one": torch.tensor(3),
            "flat": X.flatten()[5:30], "text": "TopK", "inner": {"k": 32, "t": X}, "type": torch.float16,
            "pair": (X, [1, None, 2.5])}  # fmt: skip
    save(tree, tmp_path / "x.pt")
    found = open_file(tmp_path / "x.pt")
    assert torch.equal(found["rows"].read(), X) and torch.equal(found["rows"].read(transposed=True), X.T)
    assert torch.equal(found["columns"].read(), X.T) and torch.equal(found["columns"].read(transposed=True), X)
    assert found["columns"].read(transposed=True).is_contiguous() and found["columns"].read().is_contiguous()
    assert torch.equal(found["part"].read(), X[3:9]) and torch.equal(found["flat"].read(), X.flatten()[5:30])
    assert (
        torch.equal(found["half"].read(), X.bfloat16().float())
        and found["half"].read(dtype=None).dtype == torch.bfloat16
    )
    assert found["one"].item() == 3 and found["text"] == "TopK" and found["type"] == GlobalName("torch", "float16")
    assert found["inner"]["k"] == 32 and torch.equal(found["inner"]["t"].read(), X)
    assert torch.equal(found["pair"][0].read(), X) and found["pair"][1] == [1, None, 2.5]


@pytest.mark.usefixtures("blocks")
def test_numpys_files_in_every_layout(tmp_path: Path):
    x = X.numpy()
    arrays = {
        "rows": x,
        "columns": np.asfortranarray(x),
        "double": x.astype(np.float64),
        "one": np.array(7),
        "flat": x[0],
    }
    for name, save in (("a.npz", np.savez), ("b.npz", np.savez_compressed)):
        save(tmp_path / name, **arrays)
        found = open_file(tmp_path / name)
        for one in ("rows", "columns", "double"):
            assert torch.equal(found[one].read(), X) and torch.equal(found[one].read(transposed=True), X.T)
        assert found["one"].item() == 7 and torch.equal(found["flat"].read(), X[0])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_safetensors_of_every_type(dtype: torch.dtype, tmp_path: Path):
    x = (X * 10).to(dtype)
    save_file(
        {"x": x, "none": torch.zeros(0, 4, dtype=dtype), "one": torch.tensor(1).to(dtype)}, tmp_path / "x.safetensors"
    )
    found = open_file(tmp_path / "x.safetensors")
    assert torch.equal(found["x"].read(dtype=None), x) and torch.equal(found["x"].read(), x.float())
    assert found["none"].read().shape == (0, 4) and found["one"].item() == 1


@pytest.mark.parametrize("n", range(100, 400, 7))
def test_the_length_of_a_header_does_not_make_it_another_form(n: int, tmp_path: Path):
    """The first byte of a safetensors file is one of the length: 0x80 begins a pickle as well, 0x50 a zip archive."""
    save_file({"a" * n: X}, tmp_path / "x.bin")
    assert torch.equal(open_file(tmp_path / "x.bin")["a" * n].read(), X)


def test_objects_are_described_and_not_made(tmp_path: Path):
    program = (
        b"\x80\x02cautoencoders.learned_dict\nTiedSAE\n)\x81}(X\x01\x00\x00\x00nK\x05X\x01\x00\x00\x00l](K\x01K\x02eub."
    )
    (tmp_path / "x.pkl").write_bytes(program)
    found = open_file(tmp_path / "x.pkl")
    assert isinstance(found, PickledObject) and found.type_name == GlobalName("autoencoders.learned_dict", "TiedSAE")
    assert found.state == {"n": 5, "l": [1, 2]}


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path):
    opened: list[str] = []

    def stream() -> io.BytesIO:
        opened.append("x")
        return io.BytesIO(X.numpy().tobytes())

    stored = StoredTensor("f", "x", torch.float32, tuple(X.shape), stream)
    weights = NamedWeights("f", {"x": stored, "text": "no tensor"})
    assert opened == [] and "x" in weights and "text" not in weights
    assert torch.equal(weights.take("x", "m", "d"), X) and opened == ["x"] and weights.axes == {"m": 37, "d": 11}


def stored(x: Tensor) -> StoredTensor:
    return StoredTensor("file", "x", x.dtype, tuple(x.shape), lambda: io.BytesIO(x.numpy().tobytes()))


def test_what_is_wrong_with_a_tensor_is_told():
    weights = NamedWeights("file", {"a": stored(X), "b": stored(torch.zeros(11)), "c": stored(torch.zeros(3).long())})
    weights.take("a", "m", "d")
    for name, axes, words in (
        ("b", ("m",), r"file: b has shape \(11,\); \(37,\) is expected"),
        ("b", ("d", "d"), r"file: b has shape \(11,\); \(11, 11\) is expected"),
        ("c", ("k",), "file: c has the type torch.int64"),
        ("e", ("k",), "file: the tensor e is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            _take(weights, name, *axes)
    with pytest.raises(ValueError, match="the tensor b does not belong to it"):
        weights.finish("it")
    bad = X.clone()
    bad[36, 10] = torch.inf
    with pytest.raises(ValueError, match="x holds NaN or infinite"):
        stored(bad).read()
    assert torch.isinf(stored(bad).read(finite=False)).any()
    short = StoredTensor("file", "x", torch.float32, (37, 11), lambda: io.BytesIO(bytes(100)))
    with pytest.raises(ValueError, match="file: the file ends before the end of x"):
        short.read()


def _take(weights: NamedWeights, name: str, *axes: str) -> Tensor:
    """Without using the tensor up."""
    copy = NamedWeights(weights.label, weights.remaining)
    copy.axes = dict(weights.axes)
    return copy.take(name, *axes)


def test_views_with_gaps_are_refused_only_where_they_are_asked_for(tmp_path: Path):
    torch.save({"gaps": X[:, ::2], "spread": torch.zeros(1).expand(10**6), "fine": X}, tmp_path / "x.pt")
    found = open_file(tmp_path / "x.pt")
    assert torch.equal(found["fine"].read(), X)
    for name in ("gaps", "spread"):
        with pytest.raises(ValueError, match=r"is not contiguous; save it again after \.contiguous"):
            found[name].read()


def test_other_byte_orders_and_archives_are_refused(tmp_path: Path):
    np.savez(tmp_path / "big.npz", x=X.numpy().astype(">f4"))
    with pytest.raises(ValueError, match="x has the type >f4"):
        open_file(tmp_path / "big.npz")
    np.savez(tmp_path / "complex.npz", x=X.numpy().astype(np.complex64))
    with pytest.raises(ValueError, match="x has the type <c8"):
        open_file(tmp_path / "complex.npz")
    (tmp_path / "x.pt").write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 300)
    with pytest.raises(ValueError, match="a tar archive of an old torch version"):
        open_file(tmp_path / "x.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="not a file of tensors"):
        open_file(tmp_path / "empty.pt")

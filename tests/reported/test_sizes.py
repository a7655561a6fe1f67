"""Settings whose work cannot fit in memory are refused before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.metric import gather_evidence
from sae.numerics import memory
from sae.registry import UserError, config_class
from sae.source import TensorSource
from sae.sources.tensor import read_matrix_file
from sae.training.config import TrainConfig

BILLION = 10**9
INDEPENDENT = {"kind": "independent", "n_features": 8, "d_in": 4, "probability": 0.2}
HUGE: list[tuple[dict[str, Any], str]] = [
    (INDEPENDENT | {"n_features": BILLION}, "n_features = 1000000000"),
    (INDEPENDENT | {"d_in": BILLION}, "d_in = 1000000000"),
    ({"kind": "correlated", "n_features": 10**6, "d_in": 4}, "n_features = 1000000"),
    ({"kind": "manifold", "d_in": 64, "sparse": BILLION}, "sparse = 1000000000"),
    ({"kind": "manifold", "d_in": 64, "sparse": 1, "circles": BILLION}, "circles = 1000000000"),
    (
        {"kind": "features", "n_features": BILLION, "d_in": 64,
         "activity": {"kind": "independent", "probability": 0.1}},
        "n_features = 1000000000",
    ),
    (
        {"kind": "network", "n_features": BILLION, "network": {"hidden": [8]},
         "activity": {"kind": "independent", "probability": 0.1}},
        "n_features = 1000000000",
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 4 GB, so that a test that fails takes no more."""
    monkeypatch.setattr(memory, "memory_of", lambda device: 4 * 10**9)


def refusal(error: pytest.ExceptionInfo[ValueError]) -> str:
    return str(error.value)


@pytest.mark.parametrize(("settings", "named"), HUGE, ids=lambda v: v["kind"] if isinstance(v, dict) else "")
def test_a_toy_source_that_cannot_fit(settings: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch):
    """`n_features = 1_000_000_000` filled the memory until the machine ended the process."""
    config = config_class("sources", settings["kind"])  # imports modules that make small tensors
    for name in ("randn", "rand", "full", "arange", "zeros", "empty"):
        monkeypatch.setattr(torch, name, lambda *_, **__: pytest.fail("allocated before the check"))
    with pytest.raises(ValueError, match="not enough memory") as error:
        config(**settings).build()
    assert named in refusal(error) and "GB" in refusal(error)


def test_a_pool_that_cannot_fit():
    """`n_train` samples of a toy are kept in memory."""
    source = config_class("sources", "independent")(**INDEPENDENT, n_train=BILLION).build()
    with pytest.raises(UserError, match=r"n_train = 1000000000: not enough memory"):
        source.batch(0, 4)


@pytest.mark.parametrize("shape", ["(1099511627776, 4)", "(1099511627776,)", "(4, 1099511627776)"])
def test_a_header_that_promises_more_than_the_file(shape: str, tmp_path: Path):
    """A .npy file of 200 bytes whose header says 2^40 rows asked for 16 TB."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    file = tmp_path / "x.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64))
    with pytest.raises(UserError, match="cut short") as error:
        read_matrix_file(file)
    assert "\n" not in refusal(error) and "x.npy" in refusal(error)


def test_a_whole_file_above_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A .npy file larger than the memory is refused by its size, and a smaller one is read as before."""
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
    np.save(tmp_path / "x.npy", x)
    assert torch.equal(read_matrix_file(tmp_path / "x.npy")["acts"], torch.from_numpy(x))
    monkeypatch.setattr(memory, "memory_of", lambda device: 799)
    with pytest.raises(UserError, match=r"x\.npy.*not enough memory"):
        read_matrix_file(tmp_path / "x.npy")


def test_scores_of_more_rows_than_fit():
    """`n_rows = 1_000_000_000` of an endless source filled the memory; of a finite one it takes what there is."""
    source = config_class("sources", "independent")(**INDEPENDENT).build()
    with pytest.raises(UserError, match=r"n_rows = 1000000000: not enough memory"):
        gather_evidence(source, BILLION)
    assert len(gather_evidence(TensorSource(torch.randn(100, 4)), BILLION).test.acts) == 10


def test_codes_that_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    """The codes of all scored samples are held at once."""
    monkeypatch.setattr(memory, "memory_of", lambda device: 10_000)
    with pytest.raises(UserError, match="not enough memory"):
        sae.score(Relu.tied(torch.randn(64, 4)), torch.randn(100, 4), metrics=["reconstruction"])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"batch_size": BILLION}, "train.batch_size = 1000000000"),
        ({"n_scale": BILLION}, "train.n_scale = 1000000000"),
        ({"n_latents": BILLION}, "n_latents = 1000000000"),
    ],
)
def test_training_that_cannot_fit(setting: dict[str, int], named: str):
    """A batch, a sample for the scaling, or weights beyond the memory ended the process without a word."""
    with pytest.raises(UserError, match=f"{named}.*not enough memory"):
        sae.fit(torch.randn(100, 4), **({"n_latents": 8, "l1": 0.1, "steps": 2} | setting))


@pytest.mark.parametrize("lr", [1e308, 1e30])
def test_a_learning_rate_that_overflows(lr: float):
    """`lr = 1e308` ended in a RuntimeError of a conversion, and 1e30 in weights of NaN without a word."""
    with pytest.raises(ValueError, match=r"lr\n.*less than or equal to"):
        TrainConfig(lr=lr)


def test_work_that_fits_is_untouched():
    """The estimates are lower bounds: what ran before still runs."""
    [d] = sae.fit(torch.randn(200, 4), n_latents=8, l1=0.1, steps=3, batch_size=32)
    assert sae.score(d, torch.randn(100, 4), metrics=["reconstruction"])

"""Settings whose work cannot fit in memory are refused before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
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
OFTEN = {"activity": {"kind": "independent", "probability": 0.1}}
INDEPENDENT = {"kind": "independent", "n_features": 8, "d_in": 4, "probability": 0.2}
HUGE: list[tuple[dict[str, Any], str]] = [
    (INDEPENDENT | {"n_features": BILLION}, "n_features = 1000000000"),
    (INDEPENDENT | {"d_in": BILLION}, "d_in = 1000000000"),
    ({"kind": "correlated", "n_features": 10**6, "d_in": 4}, "n_features = 1000000"),
    ({"kind": "manifold", "d_in": 64, "sparse": BILLION}, "sparse = 1000000000"),
    ({"kind": "manifold", "d_in": 64, "sparse": 1, "circles": BILLION}, "circles = 1000000000"),
    (
        {"kind": "features", "n_features": BILLION, "d_in": 64} | OFTEN,
        "n_features = 1000000000",
    ),
    ({"kind": "features", "n_features": 8, "d_in": BILLION} | OFTEN, "d_in = 1000000000"),
    ({"kind": "network", "n_features": BILLION, "network": {"hidden": [8]}} | OFTEN, "n_features = 1000000000"),
    ({"kind": "network", "n_features": 8, "network": {"hidden": [BILLION]}} | OFTEN, "hidden = [1000000000]"),
    ({"kind": "network", "n_features": 8, "network": {"hidden": [8]}, "instances": BILLION} | OFTEN, "instances = 1"),
    (
        {"kind": "network", "n_features": 8, "network": {"hidden": [8]}, "training": {"batch_size": BILLION}} | OFTEN,
        "source.training.batch_size = 1000000000",
    ),
    ({"kind": "code", "code": {"kind": "circle", "circles": BILLION}}, "code of 16000000000 dimensions"),
    ({"kind": "code", "code": {"kind": "circle", "points": BILLION}}, "code of 1000000000 dimensions"),
    ({"kind": "code", "code": {"kind": "floor"}, "d_in": 100_000}, "d_in = 100000"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 4 GB, so that a test that fails takes no more."""
    monkeypatch.setattr(memory, "memory_of", lambda device: 4 * 10**9)


def silent(done: int, total: int, unit: str) -> None: ...


def refusal(error: pytest.ExceptionInfo[ValueError]) -> str:
    return str(error.value)


def refusing_large(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function that makes tensors, for small ones alone."""

    def small(*shape: Any, **options: Any) -> torch.Tensor:
        assert "1000000" not in str(shape), "allocated before the check"
        return make(*shape, **options)

    return small


@pytest.mark.parametrize(("settings", "named"), HUGE, ids=lambda v: v["kind"] if isinstance(v, dict) else "")
def test_a_toy_source_that_cannot_fit(settings: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch):
    """`n_features = 1_000_000_000` filled the memory until the machine ended the process."""
    config = config_class("sources", settings["kind"])  # imports modules that make small tensors
    for name in ("randn", "rand", "full", "arange", "zeros", "empty"):
        monkeypatch.setattr(torch, name, refusing_large(getattr(torch, name)))
    with pytest.raises(ValueError, match=r"not enough memory.*GB|more than 10,000,000 features") as error:
        config(**settings).build()
    assert named in refusal(error)


TOY = {"kind": "attention", "hook": "blocks.0.hook_resid_post", "task": {"kind": "recent"}}
MODEL = {"n_heads": 2, "d_head": 4, "d_model": 16}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_rows": BILLION}, "source.n_rows = 1000000000"),
        ({"n_heldout_rows": BILLION}, "source.n_heldout_rows = 1000000000"),
        ({"task": {"kind": "recent", "n_other": BILLION}}, "source.task: 1000000021 tokens and answers"),
        ({"task": {"kind": "skip_trigram", "k": BILLION}}, "source.task: 4000000003 tokens"),
        ({"model": MODEL | {"n_layers": BILLION}}, "source.model: n_layers = 1000000000"),
        ({"model": MODEL | {"d_head": BILLION}}, "d_head = 1000000000"),
        ({"model": MODEL | {"d_model": BILLION}}, "width 1000000000"),
        ({"training": {"batch_size": BILLION}}, "source.training.batch_size = 1000000000"),
    ],
)
def test_an_attention_toy_that_cannot_fit(changes: dict[str, Any], named: str, tmp_path: Path):
    """Its rows were asked for after the model had been trained, its weights without a word."""
    config = config_class("sources", "attention").model_validate({"model": MODEL} | TOY | changes)
    with pytest.raises(UserError, match="not enough memory") as error:
        config.prepare(tmp_path, silent, "cpu")  # pyright: ignore
    assert named in refusal(error) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["names", "recent", "repeats", "skip_trigram"])
def test_rows_beyond_any_machine(kind: str):
    """One row of a billion tokens was drawn while the config was read."""
    with pytest.raises(ValueError, match="less than or equal to 10000"):
        config_class("sources", "attention").model_validate(
            TOY | {"model": MODEL, "task": {"kind": kind, "length": BILLION}}
        )


def test_a_table_beyond_any_machine():
    """8 to the power of a billion was computed to be compared with the largest table."""
    with pytest.raises(ValueError, match="attributes = 1000000000: a table of"):
        config_class("sources", "code").model_validate(
            {"kind": "code", "code": {"kind": "hash", "attributes": BILLION}}
        )


@pytest.mark.parametrize("kind", ["network", "features"])
def test_a_config_is_valid_on_every_machine(kind: str, monkeypatch: pytest.MonkeyPatch):
    """A config was refused on a small machine when it was read, so that no plan of it could be made there."""
    monkeypatch.setattr(memory, "memory_of", lambda device: 100)
    table = {"kind": kind, "n_features": 20} | OFTEN
    config = config_class("sources", kind)(
        **table | ({"d_in": 8} if kind == "features" else {"network": {"hidden": [8]}})
    )
    with pytest.raises(UserError, match="not enough memory"):
        config.build()  # pyright: ignore


@pytest.mark.parametrize("settings", [{"l1": 1e308}, {"l1": 0.1, "lr": 1e18}])
def test_training_that_diverges(settings: dict[str, float]):
    """`sae.fit` returned a dictionary of NaN without a word; `sae run` refuses it."""
    with pytest.raises(UserError, match=r"lr = .*, l1 = .*, seed = 0: training diverged.*; lower these"):
        sae.fit(torch.randn(100, 4), n_latents=8, steps=20, batch_size=16, **settings)


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
    """A block of codes is held at once."""
    monkeypatch.setattr(memory, "memory_of", lambda device: 10_000)
    with pytest.raises(UserError, match="not enough memory"):
        sae.score(Relu.tied(torch.randn(64, 4)), torch.randn(100, 4), metrics=["reconstruction"])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"batch_size": BILLION}, "train.batch_size = 1000000000"),
        ({"n_scale": BILLION}, "train.n_scale = 1000000000"),
        ({"n_latents": BILLION}, "n_latents = 1000000000"),
        ({"resample_pool": BILLION}, "train.resample_pool = 1000000000"),
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
